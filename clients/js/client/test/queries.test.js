// Orders, limits, counts and groups against naive evaluation after each step of a random history; what listeners are told,
// which results are shared, and what stays the same object.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Optimistic } from '../src/optimistic.js';
import { comparing, compareValues, parseOrder } from '../src/order.js';
import { queries } from '../src/queries.js';
import { Observed, Shown, TableQuery } from '../src/query.js';
import { Subscriptions } from '../src/subscribing.js';
import { random } from './random.js';

const put = (row) => ({ op: 'put', table: 'issue', row });
const gone = (id) => ({ op: 'delete', table: 'issue', row: { id } });

/** A table of issues, without a server. */
function issues(...rows) {
  const optimistic = new Optimistic({ issue: { key: ['id'] } });
  optimistic.lead();
  const shown = new Shown(optimistic);
  const status = new Observed(shown.bell, { connection: 'connecting', pending: 0 });
  const subscriptions = new Subscriptions(shown.bell, 0);
  const tableOf = queries()(shown, status, subscriptions);
  const step = ({ changes }) => shown.changed(changes);
  const say = (message) => step(optimistic.apply(message));
  const tx = (...changes) => say({ type: 'tx', cursor: '1', changes });
  if (rows.length) tx(...rows.map(put));
  return { table: tableOf('issue'), tx, say, step, optimistic, shown, status, subscriptions };
}

const ids = (rows) => rows.map(({ id }) => id);

test('orders are those of the windows of the server', () => {
  const sorted = (values, options = {}) => {
    const rows = values.map((value, id) => ({ id, value }));
    return rows.sort(comparing(parseOrder([['value', 'asc', options]]), ['id'])).map(({ value }) => value);
  };
  assert.deepEqual(sorted([10, 9, -1, 'NaN', '-Infinity', 'Infinity', null, 2.5]), ['-Infinity', -1, 2.5, 9, 10, 'Infinity', 'NaN', null]);
  // By bytes, and not as people or code units have it.
  assert.deepEqual(sorted(['ä', 'b', 'a', 'B', '', 'aa', '\u{1F600}', '\uFB01']), ['', 'B', 'a', 'aa', 'b', 'ä', '\uFB01', '\u{1F600}']);
  assert.deepEqual(sorted([true, null, false]), [false, true, null]);
  assert.deepEqual(
    sorted(['2026-01-01T00:00:00.5Z', '2026-01-01T00:00:01Z', '2026-01-01T00:00:00Z', '2026-01-01T00:00:00.25Z', 'infinity', '-infinity', '+012024-01-01T00:00:00Z', '-000043-03-15T00:00:00Z', '-000044-03-15T00:00:00Z']),
    ['-infinity', '-000044-03-15T00:00:00Z', '-000043-03-15T00:00:00Z', '2026-01-01T00:00:00Z', '2026-01-01T00:00:00.25Z', '2026-01-01T00:00:00.5Z', '2026-01-01T00:00:01Z', '+012024-01-01T00:00:00Z', 'infinity'],
  );
  const numbers = ['10', '9', '-2', '-10', '1.5', '1.25', '9007199254740993', '9007199254740992', 'NaN', 'Infinity', '-Infinity', '-9007199254740993', '-9007199254740992'];
  assert.deepEqual(sorted(numbers, { numeric: true }), [
    '-Infinity', '-9007199254740993', '-9007199254740992', '-10', '-2', '1.25', '1.5', '9', '10', '9007199254740992', '9007199254740993', 'Infinity', 'NaN',
  ]);
  assert.deepEqual(sorted([1, '$new:1', 2]), [1, 2, '$new:1']);
});

test('nulls come last, or first where the greatest do, and the key decides between equal rows in the direction of the last column', () => {
  const { table } = issues({ id: 1, rank: 5 }, { id: 2, rank: null }, { id: 3, rank: 7 }, { id: 4, rank: 5 });
  const by = (order) => ids(table.orderBy(order).all());
  assert.deepEqual(by('rank'), [1, 4, 3, 2]);
  assert.deepEqual(by([['rank', 'desc']]), [2, 3, 4, 1]);
  assert.deepEqual(by([['rank', 'asc', { nulls: 'first' }]]), [2, 1, 4, 3]);
  assert.deepEqual(by([['rank', 'desc', { nulls: 'last' }], 'id']), [3, 1, 4, 2]);
  assert.throws(() => table.orderBy([['rank', 'down']]), TypeError);
  assert.throws(() => table.orderBy(undefined), TypeError);
  assert.throws(() => table.limit(-1), TypeError);
});

test('the order of values has no circles', () => {
  const { below } = random(5);
  const values = [0, 1, -1, 1.5, 'NaN', 'Infinity', '-Infinity', '', 'a', '-', '!', '2026-01-01T00:00:00Z', '2026-01-01T00:00:00', '2026-01-01T00:00:00.5Z',
    '-infinity', 'infinity', '+012024-01-01', '-000043-03-15', true, false, [1], { a: 1 }, '$new:1', '\uFB01', '\u{1F600}', 'Z', '+', ':'];
  const pick = () => values[below(values.length)];
  for (let turn = 0; turn < 20_000; turn++) {
    const [a, b, c] = [pick(), pick(), pick()];
    assert.equal(Math.sign(compareValues(a, b)), -Math.sign(compareValues(b, a)) || 0, `${a} ${b}`);
    if (compareValues(a, b) <= 0 && compareValues(b, c) <= 0) assert.ok(compareValues(a, c) <= 0, `${a} ${b} ${c}`);
  }
});

test('without the entry the mistake is named', () => {
  const { shown } = issues();
  const table = new TableQuery(shown, 'issue');
  for (const use of [() => table.orderBy('id'), () => table.where({}).limit(1), () => table.where({}).where({}), () => table.count(), () => table.groupCount('tag')]) {
    assert.throws(use, { name: 'TypeError', message: /`queries` of @rowtide\/client\/queries/ });
  }
});

test('equal queries share one result, whether somebody listens or not', () => {
  const { table, tx } = issues({ id: 1, tag: 'x', rank: 1 }, { id: 2, tag: 'x', rank: 0 });
  const make = () => table.where({ tag: 'x', rank: 0 }).orderBy('rank').limit(5);
  assert.equal(make().all(), make().all());
  assert.equal(table.where({ rank: 0 }).where({ tag: 'x' }).orderBy('rank').limit(5).all(), make().all());
  assert.notEqual(make().limit(6).all(), make().all());
  const stop = make().subscribe(() => {});
  tx(put({ id: 3, tag: 'x', rank: 0 }));
  assert.equal(make().all(), make().all());
  assert.deepEqual(ids(make().all()), [2, 3]);
  const all = make().all();
  stop();
  assert.equal(make().all(), all, 'and who comes back before the next step finds it');
  tx(put({ id: 4, tag: 'x', rank: 0 }));
  assert.deepEqual(ids(make().all()), [2, 3, 4]);
});

test('a thousand queries for values of a column look at each row once, and a change at its own rows', () => {
  const ROWS = 5_000;
  let looks = 0;
  const row = (id, parent) => Object.defineProperty({ id, rank: id % 7 }, 'parent', { enumerable: true, get: () => (looks++, parent) });
  const { table, tx } = issues();
  tx(...Array.from({ length: ROWS }, (_, id) => put(row(id, id % 1000))));
  looks = 0;
  let calls = 0;
  const components = Array.from({ length: 1000 }, (_, parent) => table.where({ parent }).orderBy([['rank', 'desc']]));
  for (const query of components) assert.equal(query.all().length, 5);
  for (const query of components) query.subscribe(() => calls++);
  const before = components.map((query) => query.all());
  assert.equal(looks, ROWS);
  looks = 0;
  tx(put(row(17, 18)));
  assert.ok(looks < 20, `${looks}`);
  assert.equal(calls, 2);
  assert.deepEqual(components.flatMap((query, at) => (query.all() === before[at] ? [] : [at])), [17, 18]);
});

test('a thousand uses of one predicate evaluate it once for each row, and for each change once', () => {
  let evaluations = 0;
  const isOdd = ({ id }) => (evaluations++, id % 2 === 1);
  const { table, tx } = issues(...Array.from({ length: 500 }, (_, id) => ({ id, tag: 'x' })));
  for (let use = 0; use < 1000; use++) table.where(isOdd).orderBy('id').limit(use).subscribe(() => {});
  assert.equal(evaluations, 500);
  tx(put({ id: 3, tag: 'y' }));
  assert.equal(evaluations, 501);
});

test('an index goes with the last query that uses it', () => {
  let looks = 0;
  const row = (id) => Object.defineProperty({ id }, 'tag', { enumerable: true, get: () => (looks++, 'x') });
  const { table, tx } = issues();
  const stop = table.where({ tag: 'x' }).subscribe(() => {});
  tx(put(row(1)));
  assert.ok(looks > 0);
  stop();
  looks = 0;
  tx(put(row(2)));
  const idle = looks;
  table.where({ tag: 'x' }).subscribe(() => {});
  looks = 0;
  tx(put(row(3)));
  assert.ok(looks > idle, 'what nobody reads is not kept');
});

test('a predicate that throws fails whoever reads, and a step goes on without it', () => {
  const { table, tx } = issues({ id: 1, tag: 'x' });
  const errors = [];
  globalThis.reportError = (error) => errors.push(error.message);
  const strict = table.where(({ tag }) => tag.length === 1);
  const others = table.where({ tag: 'x' });
  const told = [];
  strict.subscribe((changes) => told.push(changes.length));
  others.subscribe((changes) => told.push(changes.length));
  tx(put({ id: 2, tag: null }), put({ id: 3, tag: 'x' }));
  delete globalThis.reportError;
  assert.equal(errors.length, 1);
  assert.deepEqual(told, [1, 1]);
  assert.deepEqual(ids(strict.all()), [1, 3]);
  assert.throws(() => table.where((row) => row.tag.length === 1).all(), TypeError);
});

test('a result says whether it is all that there is', async () => {
  const { table, say, status, subscriptions } = issues();
  const query = table.where({ tag: 'x' }).count();
  const seen = [];
  query.onStatus((now) => seen.push(now));
  assert.equal(query.status, 'loading');
  status.set({ connection: 'connecting', pending: 0, user: 'ann' });
  say({ type: 'tx', cursor: '1', changes: [put({ id: 1, tag: 'x' })] });
  assert.equal(table.status, 'partial', 'there are stored rows');
  status.set({ connection: 'live', pending: 0, user: 'ann' });
  assert.equal(query.status, 'complete');
  const key = '["mine",[]]';
  const handle = subscriptions.subscribe('mine');
  await Promise.resolve();
  assert.equal(query.status, 'partial', 'rows that were asked for have not come');
  subscriptions.follow([[key, { status: 'ready' }]]);
  assert.equal(query.status, 'complete');
  subscriptions.follow([[key, { status: 'refused', error: { code: 'too_many', message: 'no' } }]]);
  assert.equal(query.status, 'complete', 'nothing more will come');
  handle.unsubscribe();
  status.set({ connection: 'offline', pending: 0, user: 'ann' });
  assert.equal(query.status, 'complete', 'what was there is still there');
  status.set({ connection: 'offline', pending: 0, user: 'bob' });
  assert.equal(query.status, 'partial', 'the copy is another one');
  assert.deepEqual(seen, ['partial', 'complete', 'partial', 'complete', 'partial']);
});

test('when the key of the table changes, an order is one by the new key', () => {
  const { table, say } = issues({ id: 1, other: 2, tag: 'x' }, { id: 2, other: 1, tag: 'x' });
  const query = table.orderBy('tag').limit(3);
  query.subscribe(() => {});
  assert.deepEqual(ids(query.all()), [1, 2]);
  say({ type: 'connected', protocol: 1, mode: 'snapshot', lastMutation: 0, refused: [], tables: { issue: { key: ['other'] } } });
  assert.deepEqual(ids(query.all()), []);
  say({ type: 'snapshot', table: 'issue', rows: [{ id: 1, other: 2, tag: 'x' }, { id: 2, other: 1, tag: 'x' }] });
  say({ type: 'ready', cursor: '2' });
  assert.deepEqual(ids(query.all()), [2, 1]);
});

const TAGS = ['x', 'y', 'z', null];
const PREDICATES = [({ rank }) => rank !== null && rank > 3, ({ tag }) => tag === 'x', ({ done }) => done];
const ORDERS = ['rank', 'title', 'id', [['rank', 'desc'], 'title'], [['tag', 'asc', { nulls: 'first' }], ['rank', 'desc']], [['done', 'desc'], ['amount', 'asc', { numeric: true }]]];

/** A random query, with what it selects of rows by another way. */
function randomQuery({ below, chance }, table) {
  let query = table.where({});
  let select = (rows) => rows;
  const then = (next) => {
    const before = select;
    select = (rows) => next(before(rows));
  };
  if (chance(0.5)) {
    const tag = TAGS[below(4)];
    query = query.where({ tag });
    then((rows) => rows.filter((row) => (row.tag ?? null) === tag));
  }
  if (chance(0.3)) {
    const done = chance(0.5);
    query = query.where({ done });
    then((rows) => rows.filter((row) => row.done === done));
  }
  if (chance(0.3)) {
    const predicate = PREDICATES[below(PREDICATES.length)];
    query = query.where(predicate);
    then((rows) => rows.filter(predicate));
  }
  const order = chance(0.6) ? ORDERS[below(ORDERS.length)] : undefined;
  const limit = chance(0.4) ? below(12) : undefined;
  if (order) query = query.orderBy(order);
  if (limit !== undefined) query = query.limit(limit);
  const isOrdered = !!order || limit !== undefined;
  then((rows) => (isOrdered ? [...rows].sort(comparing(order ? parseOrder(order) : [], ['id'])).slice(0, limit) : rows));
  return { query, select, isOrdered };
}

/** Rows by their keys. */
const byId = (rows) => new Map(rows.map((row) => [JSON.stringify([row.id]), row]));

/** Listens to a query, and checks what it says after each step. */
class Watcher {
  told = [];

  constructor(random, table) {
    Object.assign(this, randomQuery(random, table));
    this.kind = ['rows', 'rows', 'count', 'groupCount'][random.below(4)];
    this.query = this.kind === 'count' ? this.query.count() : this.kind === 'groupCount' ? this.query.groupCount('tag') : this.query;
    this.isLate = random.chance(0.3);
    if (!this.isLate) this.listen();
    this.before = this.read();
  }

  listen() {
    this.stop = this.query.subscribe((what) => this.told.push(what));
  }

  read() {
    return this.kind === 'rows' ? this.query.all() : this.query.get();
  }

  check(rows) {
    const [{ before, told }, now, expected] = [this, this.read(), this.select(rows)];
    this.before = now;
    this.told = [];
    if (this.kind === 'rows') {
      if (this.isOrdered) assert.deepEqual(now, expected);
      else assert.deepEqual(new Set(now), new Set(expected));
      assert.equal(now.length, expected.length);
    } else if (this.kind === 'count') assert.equal(now, expected.length);
    else {
      const groups = new Map();
      for (const { tag = null } of expected) groups.set(tag, (groups.get(tag) ?? 0) + 1);
      assert.deepEqual(now, groups);
    }
    assert.equal(this.read(), now);
    if (!this.stop) return;
    if (this.kind !== 'rows') {
      const isSame = this.kind === 'count' ? before === now : before.size === now.size && [...before].every(([tag, count]) => now.get(tag) === count);
      assert.deepEqual(told, isSame ? [] : [now]);
      assert.equal(before === now, isSame);
      return;
    }
    const [was, is] = [byId(before), byId(now)];
    const differences = [...new Set([...was.keys(), ...is.keys()])].filter((key) => was.get(key) !== is.get(key));
    assert.equal(told.length, differences.length ? 1 : 0);
    assert.equal(before === now, !differences.length);
    assert.deepEqual(
      new Map((told[0] ?? []).map(({ key, row, before }) => [key, [before, row]])),
      new Map(differences.map((key) => [key, [was.get(key), is.get(key)]])),
    );
    assert.equal(told[0]?.length ?? 0, differences.length);
  }
}

for (let seed = 1; seed <= 20; seed++) {
  test(`every result is what naive evaluation gives, seed ${seed}`, () => {
    const source = random(seed);
    const { below, chance } = source;
    const client = issues();
    const { table, optimistic } = client;
    const aRow = () => ({
      id: below(40), tag: TAGS[below(4)], rank: chance(0.2) ? null : below(6), title: 'aäbB'[below(4)], done: chance(0.5), amount: ['10', '9', '9.0', '-1.5', null][below(5)],
    });
    let watchers = [];
    let mutations = 0;
    let cursor = 1;
    const step = () => {
      const what = below(10);
      if (what < 4) return client.tx(...Array.from({ length: 1 + below(4) }, () => (chance(0.3) ? gone(below(40)) : put(aRow()))));
      if (what === 4) return client.tx(...Array.from({ length: 60 }, () => (chance(0.3) ? gone(below(40)) : put(aRow()))));
      if (what < 8) {
        const { id, ...more } = aRow();
        const op = [{ op: 'insert', table: 'issue', row: { id, ...more } }, { op: 'update', table: 'issue', row: { id, rank: more.rank } }, { op: 'delete', table: 'issue', row: { id } }][below(3)];
        mutations += 1;
        return client.step(optimistic.mutate(mutations.toString(16).padStart(32, '0'), [op]));
      }
      if (what === 8) {
        // The connection begins anew, with all rows or none.
        client.say({ type: 'connected', protocol: 1, mode: 'snapshot', lastMutation: optimistic.acked, refused: [], tables: { issue: { key: ['id'] } } });
        client.say({ type: 'snapshot', table: 'issue', rows: Array.from({ length: below(60) }, aRow) });
        return client.say({ type: 'ready', cursor: String(++cursor) });
      }
      while (optimistic.nextToSend(100, () => true));
      return client.say({ type: 'tx', cursor: String(++cursor), ack: optimistic.last, changes: [put(aRow())] });
    };
    for (let turn = 0; turn < 120; turn++) {
      if (watchers.length < 25) watchers.push(new Watcher(source, table));
      step();
      const rows = [...(optimistic.tables.get('issue')?.rows.values() ?? [])];
      for (const watcher of watchers) watcher.check(rows);
      if (chance(0.3)) {
        const [late] = watchers.filter(({ isLate, stop }) => isLate && !stop);
        late?.listen();
      }
      if (chance(0.3)) {
        const leaving = watchers[below(watchers.length)];
        leaving.stop?.();
        leaving.stop = undefined;
        if (chance(0.7)) watchers = watchers.filter((watcher) => watcher !== leaving);
      }
    }
  });
}
