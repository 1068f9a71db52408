// What components show of queries: orders and counts, whether it is all, what is pending; and that they wait while there is nothing
// to show, and never for ever.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { offline, page, text } from './page.js';

const { act, createElement: h, memo, StrictMode, Suspense, useState } = await import('react');
const { hydrateRoot } = await import('react-dom/client');
const { renderToString } = await import('react-dom/server');
const { RowtideProvider, usePending, useQuery, useQueryStatus, useRow, useStatus, useSuspenseQuery, useSuspenseSubscription } = await import('../src/index.js');

const strict = (inner) => h(StrictMode, null, inner);
let client, place, renders;
beforeEach(() => {
  client = offline();
  place = page();
  renders = {};
});
afterEach(() => place.leave());
const rendered = (name) => (renders[name] = (renders[name] ?? 0) + 1);
const notes = (...texts) => texts.map((text, at) => ({ id: at + 1, text, tag: 'x' }));

for (const wrap of [undefined, strict]) {
  test(`a query that is built in place shows rows in their order${wrap ? ', in strict mode too' : ''}`, async () => {
    client.tx(...notes('b', 'c', 'a'));
    let choose;
    function List() {
      const [limit, setLimit] = useState(2);
      choose = setLimit;
      rendered('list');
      const rows = useQuery((db) => db.table('note').where({ tag: 'x' }).orderBy('text').limit(limit), [limit]);
      const count = useQuery((db) => db.table('note').where({ tag: 'x' }).count());
      const groups = useQuery((db) => db.table('note').groupCount('tag'), []);
      return `${rows.map(({ text }) => text)} of ${count}, ${[...groups]}`;
    }
    await place.show(client, h(List), wrap);
    assert.equal(text(), 'a,b of 3, x,3');
    const before = renders.list;
    await act(() => client.tx({ id: 2, text: 'd', tag: 'x' }));
    assert.equal(renders.list, before, 'what is behind the first rows is not shown');
    await act(() => client.tx({ id: 3 }));
    assert.equal(text(), 'b,d of 2, x,2');
    await act(() => choose(1));
    assert.equal(text(), 'b of 2, x,2');
  });
}

test('a query that is kept outside is taken as it is', async () => {
  client.tx(...notes('b', 'a'));
  const byText = client.table('note').orderBy([['text', 'desc']]);
  const List = () => useQuery(byText).map(({ text }) => text).join();
  await place.show(client, h(List));
  assert.equal(text(), 'b,a');
  await act(() => client.tx({ id: 2, text: 'c', tag: 'x' }));
  assert.equal(text(), 'c,b');
});

test('a change renders those of a thousand components whose result it changes', async () => {
  client.tx(...Array.from({ length: 5000 }, (_, id) => ({ id, text: `${id}`, parent: id % 1000 })));
  const Children = memo(({ parent }) => {
    rendered(parent);
    return useQuery((db) => db.table('note').where({ parent }).orderBy('text'), [parent]).length;
  });
  await place.show(client, Array.from({ length: 1000 }, (_, parent) => h(Children, { key: parent, parent })));
  assert.equal(Object.values(renders).length, 1000);
  assert.ok(Object.values(renders).every((count) => count === 1));
  await act(() => client.tx({ id: 17, text: 'moved', parent: 18 }));
  assert.deepEqual(Object.entries(renders).filter(([, count]) => count > 1), [['17', 2], ['18', 2]]);
});

test('a component that shows one row hears of this row alone, also when its temporary key becomes another one', async () => {
  client.tx(...notes('a', 'b'));
  const id = `$new:${'1'.padStart(32, '0')}:0:id`;
  const Row = ({ of }) => {
    rendered(of);
    return useRow('note', of)?.text ?? 'none';
  };
  await place.show(client, [h(Row, { key: 1, of: 1 }), h(Row, { key: 2, of: id })]);
  let heard = 0;
  const { keyOf } = client.table('note');
  client.table('note').keyOf = function of(key) {
    heard += 1;
    return keyOf.call(this, key);
  };
  await act(() => client.tx({ id: 2, text: 'B', tag: 'x' }));
  assert.equal(heard, 0);
  await act(() => client.write({ op: 'insert', row: { id, text: 'new' } }));
  assert.equal(text(), 'anew');
  await act(() => client.ack({ rows: [{ id: 7, text: 'made' }], keys: [{ id: 1, op: 0, key: { id: 7 } }] }));
  assert.equal(text(), 'amade');
  await act(() => client.tx({ id: 7, text: 'later' }));
  assert.equal(text(), 'alater');
  assert.equal(renders[1], 1);
});

test('a pending row renders again when it is acknowledged, though the row stays as it is', async () => {
  client.tx(...notes('a', 'b'));
  const Row = memo(({ id }) => {
    rendered(id);
    return `${useRow('note', id).text}${usePending('note', id) ? '…' : '.'}`;
  });
  await place.show(client, [h(Row, { key: 1, id: 1 }), h(Row, { key: 2, id: { id: 2 } })], strict);
  assert.equal(text(), 'a.b.');
  const before = { ...renders };
  await act(() => client.write({ op: 'update', row: { id: 1, text: 'A' } }));
  assert.equal(text(), 'A…b.');
  await act(() => client.ack({ rows: [{ id: 1, text: 'A', tag: 'x' }] }));
  assert.equal(text(), 'A.b.');
  // The same value, and one that was applied while the connection was away.
  await act(() => client.write({ op: 'update', row: { id: 1, text: 'A' } }));
  assert.equal(text(), 'A…b.');
  client.send();
  await act(() => {
    client.status.set({ ...client.status.get(), connection: 'connecting' });
    client.connected(2);
  });
  await act(() => {
    client.ready();
    client.status.set({ ...client.status.get(), connection: 'live' });
  });
  assert.equal(text(), 'A.b.');
  assert.equal(renders['[object Object]'], before['[object Object]'], 'others do not');
});

test('a component is suspended while no rows are known, and empty is another thing', async () => {
  client = offline({ live: false });
  const List = () => {
    rendered('list');
    const rows = useSuspenseQuery((db) => db.table('note').where({ tag: 'x' }).orderBy('text'));
    return `${useQueryStatus('note')} ${rows.map(({ text }) => text)}`;
  };
  await place.show(client, h(Suspense, { fallback: 'loading' }, h(List), h(List)), strict);
  assert.equal(text(), 'loading');
  const before = renders.list;
  await act(async () => client.status.set({ connection: 'connecting', pending: 0, leads: true }));
  assert.equal(renders.list, before, 'it waits, and does not ask again and again');
  await act(async () => client.status.set({ connection: 'live', pending: 0 }));
  assert.equal(text(), 'complete complete ');
  assert.ok(renders.list <= before + 8, `${renders.list - before}`);
  await act(async () => client.tx(...notes('b', 'a')));
  assert.equal(text(), 'complete a,bcomplete a,b');
});

test('a suspended component has the stored rows at once', async () => {
  client = offline({ live: false });
  const List = () => `${useQueryStatus('note')} ${useSuspenseQuery('note').length}`;
  await place.show(client, h(Suspense, { fallback: 'loading' }, h(List)));
  assert.equal(text(), 'loading');
  await act(async () => client.tx(...notes('a')));
  assert.equal(text(), 'partial 1');
});

test('a component is suspended until its subscription is ready, and may wait again', async () => {
  const key = '["channel",[["channel",1]]]';
  let uses = 0;
  const { subscribe } = client;
  client.subscribe = (...asked) => {
    const handle = subscribe(...asked);
    if (typeof asked[0] === 'function') return handle;
    uses += 1;
    const { unsubscribe } = handle;
    return { ...handle, unsubscribe: () => (uses--, unsubscribe()) };
  };
  const Part = () => {
    rendered('part');
    const { status, error } = useSuspenseSubscription('channel', { channel: 1 });
    return `${status} ${error?.code ?? ''}`;
  };
  await place.show(client, h(Suspense, { fallback: 'loading' }, h(Part), h(Part)), strict);
  assert.equal(text(), 'loading');
  assert.equal(uses, 1, 'those who wait for the same ask once');
  await act(async () => client.subscriptions.follow([[key, { status: 'ready' }]]));
  assert.equal(text(), 'ready ready ');
  // The rows are gone, as when another user is shown: it waits anew, for as long as it takes.
  await act(async () => client.subscriptions.follow([]));
  const before = renders.part;
  await act(async () => new Promise((resolve) => setImmediate(resolve)));
  assert.ok(renders.part <= before + 4, `${renders.part - before}`);
  await act(async () => client.subscriptions.follow([[key, { status: 'refused', error: { code: 'too_many', message: 'no' } }]]));
  assert.equal(text(), 'refused too_manyrefused too_many');
});

test('without `queries` rows are shown, and what needs them names the mistake', async () => {
  client = offline({ core: true });
  client.tx(...notes('a', 'b'));
  const List = () => useQuery('note', ({ id }) => id > 1).map(({ text }) => text).join();
  await place.show(client, h(List));
  assert.equal(text(), 'b');
  const { error } = console;
  console.error = () => {};
  try {
    for (const use of [() => useQueryStatus('note'), () => useSuspenseQuery('note'), () => useQuery((db) => db.table('note').orderBy('id'))]) {
      const Wrong = () => String(use());
      await assert.rejects(async () => act(() => place.root.render(h(RowtideProvider, { client }, h(Wrong)))), /`queries` of @rowtide\/client\/queries/);
    }
  } finally {
    console.error = error;
  }
});

test('a page takes over what a server has rendered without rows, and then shows them', async () => {
  const Page = () => {
    const rows = useQuery((db) => db.table('note').orderBy('text'), []);
    const count = useQuery((db) => db.table('note').count(), []);
    const groups = useQuery((db) => db.table('note').groupCount('tag'), []);
    return `${rows.length} ${count} ${groups.size} ${useRow('note', 1)?.text} ${usePending('note', 1)} ${useQueryStatus('note')} ${useStatus(({ connection }) => connection)}`;
  };
  const rendered = renderToString(h(RowtideProvider, { client: offline({ live: false }) }, h(Page)));
  assert.equal(rendered, '0 0 0 undefined false loading connecting');
  client.tx(...notes('a', 'b'));
  client.write({ op: 'update', row: { id: 1, text: 'A' } });
  const container = document.createElement('p');
  container.innerHTML = rendered;
  const mistakes = [];
  let root;
  await act(() => {
    root = hydrateRoot(container, h(RowtideProvider, { client }, h(Page)), { onRecoverableError: (error) => mistakes.push(error) });
  });
  assert.deepEqual(mistakes, []);
  assert.equal(container.textContent, '2 2 1 A true complete live');
  await act(() => root.unmount());
});
