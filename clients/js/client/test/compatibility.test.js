// What earlier versions of the client have stored, and what a tab that runs an earlier version sends and
// expects. The objects here are as those versions wrote them.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { memoryStorage } from '../src/index.js';
import { Optimistic } from '../src/optimistic.js';
import { ScriptedServer, until } from './scripted.js';

let server;
beforeEach(async () => (server = await ScriptedServer.start()));
afterEach(() => server.stop());

const insert = (id) => [{ op: 'insert', table: 'note', row: { id, text: `note ${id}` } }];
const ids = (db) => db.table('note').all().map(({ id }) => id);
const TX = { type: 'tx', changes: [] };

test('a copy that an earlier version stored is shown, sent and acknowledged', async () => {
  const storage = memoryStorage();
  const store = await storage.open(`rowtide ${server.url} ann`);
  await store.write({
    rows: [['note', '[1]', { id: 1, text: 'note 1' }]],
    entries: [
      { id: 'held', ops: insert(2), number: 3, state: 'held' },
      { id: 'refused', ops: insert(3), number: 4, state: 'refused' },
      { id: 'sent', ops: insert(4), number: 5, state: 'pending' },
      { id: 'unsent', ops: insert(5), state: 'pending' },
    ],
    gone: [],
    meta: {
      clientId: 'client-of-before', cursor: 'c1', last: 5, settled: 3, seq: 9, keys: { note: ['id'] },
      refusals: [{ id: 'refused', code: 'forbidden', message: 'no' }],
    },
  });
  const db = server.client({ storage });
  await db.opened;
  assert.deepEqual(ids(db), [1, 2, 4, 5]);
  assert.deepEqual(db.pending().map(({ id }) => id), ['sent', 'unsent']);
  const outcomes = [];
  db.onAcked(({ id, code }) => outcomes.push([id, code]));
  const connection = await server.accept();
  const connect = await connection.welcome({ mode: 'resume', lastMutation: 3, cursor: 'c2' });
  assert.deepEqual([connect.clientId, connect.cursor, connect.settled], ['client-of-before', 'c1', 3]);
  const numbers = [];
  while (numbers.length < 3) numbers.push((await connection.next('mutate')).id);
  // The rejected mutation too: the server has not acknowledged its number.
  assert.deepEqual(numbers, [4, 5, 6]);
  connection.say({ ...TX, cursor: 'c3', ack: 6 });
  await until(db.status, ({ pending }) => pending === 0);
  assert.deepEqual(outcomes, [['sent', undefined], ['unsent', undefined]]);
});

test('an earlier version can read what this one stores', async () => {
  const storage = memoryStorage();
  const db = server.client({ storage });
  const connection = await server.accept();
  const { clientId } = await connection.welcome({ rows: [{ id: 1, text: 'note 1' }], cursor: 'c1' });
  const first = db.mutate((tx) => tx.note.insert({ id: 2, text: 'note 2' }));
  const second = db.mutate((tx) => tx.note.insert({ id: 3, text: 'note 3' }));
  const third = db.mutate((tx) => tx.note.insert({ id: 4, text: 'note 4' }));
  await connection.next('mutate');
  connection.say({ ...TX, cursor: 'c2', ack: 1 });
  await first.confirmed;
  connection.say({ type: 'reject', id: 2, code: 'forbidden', message: 'no' });
  await assert.rejects(second.confirmed);
  await db.close();
  const store = await storage.open(`rowtide ${server.url} ann`);
  const { meta, entries } = await store.load();
  assert.deepEqual(entries, [
    { id: second.id, ops: insert(3), state: 'refused', number: 2 },
    { id: third.id, ops: insert(4), state: 'pending', number: 3 },
  ]);
  const { seq, ...rest } = meta;
  assert.ok(seq > 0);
  assert.deepEqual(rest, {
    clientId, cursor: 'c2', last: 3, settled: 1, keys: { note: ['id'] },
    refusals: [{ id: second.id, code: 'forbidden', message: 'no' }],
  });
});

test('tabs that run different versions read each other’s steps', () => {
  const follower = new Optimistic({ note: { key: ['id'] } });
  for (const id of ['first', 'second']) {
    follower.adopt({ id, ops: insert(id), state: 'pending' });
  }
  const step = follower.follow({
    keys: { note: ['id'] },
    rows: [['note', '[1]', { id: 1, text: 'note 1' }]],
    entries: [{ id: 'second', ops: insert('second'), number: 2, state: 'refused' }],
    gone: ['first'],
    settled: [{ id: 'first', ops: insert('first') }, { id: 'second', ops: insert('second'), code: 'forbidden', message: 'no' }],
  });
  assert.deepEqual(step.acked.map(({ id, code }) => [id, code]), [['first', undefined], ['second', 'forbidden']]);
  assert.deepEqual([...follower.tables.get('note').rows.keys()], ['[1]']);

  const leader = new Optimistic({ note: { key: ['id'] } });
  leader.lead();
  leader.apply({ type: 'connected', mode: 'resume', lastMutation: 0, refused: [], tables: { note: { key: ['id'] } } });
  leader.mutate('first', insert(1));
  leader.nextToSend(1, () => true);
  const { record } = leader.apply({ type: 'reject', id: 1, code: 'forbidden', message: 'no' });
  const ops = insert(1);
  assert.deepEqual(record, {
    rows: [], gone: [],
    entries: [{ id: 'first', ops, number: 1, state: 'refused' }],
    settled: [{ id: 'first', ops, code: 'forbidden', message: 'no' }],
  });
});
