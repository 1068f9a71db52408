// Random runs of a client with two collections, a server that judges, and a connection that breaks. After every step of the client
// the collections have the rows that the client shows, and whoever listens to them has been told exactly these, without anything in
// between. In the end all have the server's rows. ROWTIDE_SEED=n plays one run, ROWTIDE_HISTORIES=n that many.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { createCollection, createTransaction } from '@tanstack/db';
import { createClient } from '@rowtide/client';
import { random } from '../../client/test/random.js';
import { token } from '../../client/test/scripted.js';
import { rowtideCollectionOptions, rowtideMutationFn } from '../src/index.js';
import { TABLES, gone, put, rowsOf } from './server.js';

const keyRow = (table, row) => Object.fromEntries(TABLES[table].key.map((column) => [column, row[column]]));
const keyOf = (table, row) => JSON.stringify(Object.values(keyRow(table, row)));
const sorted = (table, rows) => [...rows].sort((a, b) => (keyOf(table, a) < keyOf(table, b) ? -1 : 1));

/** A server without a wire: what it says is there when it has said it. */
class ModelServer {
  rows = { note: new Map(), mark: new Map() };
  last = 0;
  cursor = 0;
  writes = 0;
  rejections = [];
  waiting = [];
  socket = undefined;

  constructor(rng) {
    this.rng = rng;
    const server = this;
    this.WebSocket = class {
      readyState = 1;
      constructor() {
        server.socket = this;
        queueMicrotask(() => this.onopen?.());
      }
      send(text) {
        server.hear(JSON.parse(text));
      }
      close() {
        if (server.socket === this) server.socket = undefined;
      }
    };
  }

  say(message) {
    this.socket?.onmessage?.({ data: JSON.stringify(message) });
  }

  hear(message) {
    if (message.type === 'mutate') this.waiting.push(message);
    if (message.type !== 'connect') return;
    this.waiting = [];
    const { socket } = this;
    queueMicrotask(() => socket === this.socket && this.welcome(message));
  }

  welcome({ acked = 0 }) {
    const refused = this.rejections.filter(({ id }) => id > acked);
    this.say({ type: 'connected', protocol: 1, userId: 'ann', mode: 'snapshot', lastMutation: this.last, refused, tables: TABLES, features: [] });
    for (const [table, rows] of Object.entries(this.rows)) this.say({ type: 'snapshot', table, rows: [...rows.values()] });
    this.say({ type: 'ready', cursor: String(++this.cursor) });
  }

  write({ op, table, row }) {
    const rows = this.rows[table];
    const key = keyOf(table, row);
    if (op === 'delete') {
      rows.delete(key);
      return gone(table, keyRow(table, row));
    }
    // As a trigger would: no client can know it before it comes.
    rows.set(key, { ...rows.get(key), ...row, version: ++this.writes });
    return put(table, rows.get(key));
  }

  judge() {
    const mutation = this.waiting.shift();
    if (!mutation) return;
    const { id, ops } = mutation;
    this.last = id;
    const fits = ops.every(({ op, table, row }, at) =>
      op === 'insert' || this.rows[table].has(keyOf(table, row)) || ops.slice(0, at).some((other) => other.op === 'insert' && other.table === table && keyOf(table, other.row) === keyOf(table, row)));
    if (fits && this.rng.chance(0.7)) {
      this.say({ type: 'tx', cursor: String(++this.cursor), changes: ops.map((op) => this.write(op)), ack: id });
    } else {
      const rejection = { type: 'reject', id, code: 'forbidden', message: 'no' };
      this.rejections.push(rejection);
      this.say(rejection);
      this.say({ type: 'tx', cursor: String(++this.cursor), changes: [], ack: id });
    }
  }

  othersWrite() {
    const ops = Array.from({ length: 1 + this.rng.below(3) }, () => {
      const [table, row] = randomRow(this.rng);
      return { op: this.rng.chance(0.25) ? 'delete' : 'put', table, row };
    });
    this.say({ type: 'tx', cursor: String(++this.cursor), changes: ops.map((op) => this.write(op)) });
  }

  cut() {
    const { socket } = this;
    this.socket = undefined;
    if (socket) socket.readyState = 3;
    socket?.onclose?.({ code: 1006 });
  }
}

function randomRow(rng) {
  const text = rng.below(100);
  return rng.chance(0.6) ? ['note', { id: rng.below(5), text }] : ['mark', { note: rng.below(3), person: `p${rng.below(2)}`, text }];
}

async function run(seed, seen) {
  const rng = random(seed);
  const server = new ModelServer(rng);
  const db = createClient({ url: 'ws://server/sync', token: () => token('ann'), tables: TABLES, WebSocket: server.WebSocket });
  const collections = {};
  const told = {};
  // While TanStack DB shows what the client has not been given yet, and until it takes from the client again, which is at the end
  // of the same task: nothing of the server comes before that, except here.
  let writing = false;
  const transactions = [];
  const handsOver = () => writing || transactions.some(({ state }) => state === 'persisting');

  const check = (table, why) => {
    const shown = sorted(table, db.table(table).all());
    assert.deepEqual(sorted(table, rowsOf(collections[table])), shown, `${table}: ${why}`);
    if (told[table]) assert.deepEqual(sorted(table, told[table].values()), shown, `what was told of ${table}: ${why}`);
  };
  const listen = (table) => {
    const rows = (told[table] = new Map());
    collections[table].subscribeChanges((changes) => {
      for (const { type, key, value } of changes) {
        assert.equal(rows.has(key), type !== 'insert', `${type} of ${table} ${key}`);
        const row = Object.fromEntries(Object.entries(value).filter(([name]) => !name.startsWith('$')));
        if (type === 'delete') rows.delete(key);
        else rows.set(key, row);
      }
      if (!handsOver()) assert.deepEqual(sorted(table, rows.values()), sorted(table, db.table(table).all()), `told in between of ${table}`);
    }, { includeInitialState: true });
  };
  const failures = [];
  for (const table of Object.keys(TABLES)) {
    collections[table] = createCollection(rowtideCollectionOptions({ client: db, table }));
    listen(table);
    // Told after the collection is.
    db.table(table).subscribe(() => {
      try {
        if (!handsOver()) check(table, 'a step');
      } catch (error) {
        failures.push(error);
      }
    });
  }
  const settle = async () => {
    for (let turns = 0; turns < 6; turns++) await turn();
    if (failures.length) throw failures[0];
    for (const table of Object.keys(TABLES)) check(table, 'at rest');
  };

  /** Writes a row to a collection, as what is there allows. */
  const write = () => {
    const [table, row] = randomRow(rng);
    const collection = collections[table];
    const key = table === 'note' ? row.id : keyOf(table, row);
    if (!collection.has(key)) return collection.insert(row);
    if (rng.chance(0.3)) return collection.delete(key);
    return collection.update(key, (draft) => void (draft.text = row.text));
  };
  const mutate = () => db.mutate((tx) => {
    const [table, row] = randomRow(rng);
    if (rng.chance(0.3)) tx[table].delete(keyRow(table, row));
    else tx[table][rng.chance(0.6) ? 'insert' : 'update'](row);
  });
  const made = (does) => {
    writing = true;
    try {
      transactions.push(does());
    } finally {
      writing = false;
    }
  };
  const transaction = () => {
    const several = createTransaction({ mutationFn: rowtideMutationFn(db) });
    several.mutate(() => {
      for (let n = 1 + rng.below(4); n; n--) write();
    });
    if (new Set(several.mutations.map(({ collection }) => collection.id)).size > 1) seen.add('several collections');
    return several;
  };
  const actions = [
    () => made(write), () => made(write), () => made(transaction), mutate,
    () => (made(write), server.othersWrite()), () => (made(write), made(write), server.judge()),
    () => server.judge(), () => server.judge(), () => server.othersWrite(),
    () => rng.chance(0.3) && (seen.add('cut'), server.cut(), db.connect()),
  ];
  await settle();
  for (let step = 0; step < 50; step++) {
    actions[rng.below(actions.length)]();
    // Some come before TanStack DB has handed over what was written before.
    if (rng.chance(0.7)) await settle();
  }
  await settle();
  if (db.status.get().connection !== 'live') db.connect();
  for (let step = 0; db.status.get().pending || !server.socket; step++) {
    assert.ok(step < 500, 'it never comes to rest');
    server.judge();
    await settle();
  }
  for (const table of Object.keys(TABLES)) {
    assert.deepEqual(sorted(table, rowsOf(collections[table])), sorted(table, server.rows[table].values()));
  }
  if (server.rejections.length) seen.add('rejected');
  await db.close();
}

test('collections have the rows that the client shows, after every step', async () => {
  const one = process.env.ROWTIDE_SEED;
  const seeds = one ? [Number(one)] : Array.from({ length: Number(process.env.ROWTIDE_HISTORIES ?? 30) }, (_, seed) => seed);
  const seen = new Set();
  for (const seed of seeds) {
    try {
      await run(seed, seen);
    } catch (error) {
      error.message = `ROWTIDE_SEED=${seed}: ${error.message}`;
      throw error;
    }
  }
  if (!one) assert.deepEqual([...seen].sort(), ['cut', 'rejected', 'several collections']);
});
