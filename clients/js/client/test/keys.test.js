// Keys that the server makes: what is shown and sent before they are there, and what becomes of it. The server sends what
// the test says.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { memoryStorage } from '../src/index.js';
import { ScriptedServer, until } from './scripted.js';

let server;
beforeEach(async () => (server = await ScriptedServer.start()));
afterEach(() => server.stop());

const live = (db) => until(db.status, ({ connection }) => connection === 'live');
const put = (id, more) => ({ op: 'put', table: 'note', row: { id, ...more } });
const shown = (db) => db.table('note').all().map(({ id, text }) => [id, text]);

async function connected(options) {
  const db = server.client(options);
  const connection = await server.accept();
  await connection.welcome();
  await live(db);
  return { db, connection };
}

test('a row is shown under a temporary key, and takes its own in one step with what is still on its way', async () => {
  const { db, connection } = await connected();
  let made;
  db.mutate((tx) => {
    made = tx.note.insert({ text: 'new' });
    tx.note.update({ id: made.id, text: 'newer' });
    tx.note.insert({ id: 5, parent: made.id });
  });
  assert.deepEqual(shown(db), [[made.id, 'newer'], [5, undefined]]);
  const later = db.mutate((tx, call) => {
    tx.note.update({ id: made.id, text: 'newest' });
    call('accept', { note: made.id });
  });
  const $key = [1, 0, 'id'];
  assert.deepEqual((await connection.next('mutate')).ops, [
    { op: 'insert', table: 'note', row: { text: 'new' } },
    { op: 'update', table: 'note', row: { id: { $key }, text: 'newer' } },
    { op: 'insert', table: 'note', row: { id: 5, parent: { $key } } },
  ]);
  assert.deepEqual((await connection.next('mutate')).ops, [
    { op: 'update', table: 'note', row: { id: { $key }, text: 'newest' } },
    { op: 'call', name: 'accept', args: { note: { $key } } },
  ]);
  const steps = [];
  db.subscribe((changes) => steps.push(changes.map(({ row, before }) => [(row ?? before).id, row?.text])));
  const acked = [];
  db.onAcked(({ ops }) => acked.push(ops[0].row));
  const changes = [put(4711, { text: 'newer' }), put(5, { parent: 4711 })];
  connection.say({ type: 'tx', cursor: '2', changes, ack: 1, keys: [{ id: 1, op: 0, key: { id: 4711 } }] });
  await until(db.status, ({ pending }) => pending === 1);
  // Nothing in between: the edit that is not acknowledged stays on the row.
  assert.deepEqual(steps.map((step) => step.sort()), [[[4711, 'newest'], [5, undefined], [made.id, undefined]].sort()]);
  assert.equal(db.table('note').get(5).parent, 4711);
  assert.deepEqual(acked, [{ text: 'new', id: 4711 }]);
  // Whoever still has the temporary key finds the row by it, and writes to it.
  assert.equal(db.table('note').get(made.id).id, 4711);
  db.mutate((tx) => tx.note.update({ id: made.id, text: 'last' }));
  assert.deepEqual((await connection.next('mutate')).ops, [{ op: 'update', table: 'note', row: { id: 4711, text: 'last' } }]);
  connection.say({ type: 'tx', cursor: '3', changes: [put(4711, { text: 'newest' })], ack: 2 });
  await later.confirmed;
  assert.deepEqual(shown(db).sort(), [[4711, 'last'], [5, undefined]].sort());
});

test('what refers to a row that was rejected is sent, so that the server rejects it', async () => {
  const { db, connection } = await connected();
  let made;
  const first = db.mutate((tx) => (made = tx.note.insert({ text: 'no' })) && undefined);
  await connection.next('mutate');
  connection.say({ type: 'reject', id: 1, code: 'forbidden', message: 'no' });
  connection.say({ type: 'tx', cursor: '2', changes: [], ack: 1 });
  await assert.rejects(first.confirmed, { code: 'forbidden' });
  assert.deepEqual(shown(db), []);
  db.mutate((tx) => tx.note.insert({ id: 5, parent: made.id }));
  const [{ row }] = (await connection.next('mutate')).ops;
  assert.deepEqual(row, { id: 5, parent: { $key: [1, 0, 'id'] } });
});

test('a client that comes back is told of the key, and shows the row once', async () => {
  const storage = memoryStorage();
  const { db, connection } = await connected({ storage });
  let made;
  db.mutate((tx) => (made = tx.note.insert({ text: 'new' })) && undefined);
  db.mutate((tx) => tx.note.update({ id: made.id, text: 'newer' }));
  await connection.next('mutate');
  await db.close();

  const again = server.client({ storage });
  const back = await server.accept();
  await back.next('connect');
  await until(again.status, ({ pending }) => pending === 2);
  assert.deepEqual(shown(again), [[made.id, 'newer']]);
  const keys = [{ id: 1, op: 0, key: { id: 4711 } }];
  back.say({ type: 'connected', protocol: 1, userId: 'ann', mode: 'resume', lastMutation: 1, refused: [], keys, tables: { note: { key: ['id'] } } });
  await until(again.status, ({ pending }) => pending === 1);
  assert.deepEqual(shown(again), [[4711, 'newer']]);
  back.say({ type: 'tx', cursor: '2', changes: [put(4711, { text: 'new' })] });
  back.say({ type: 'ready', cursor: '2' });
  await live(again);
  assert.deepEqual(shown(again), [[4711, 'newer']]);
  assert.deepEqual((await back.next('mutate')).ops, [{ op: 'update', table: 'note', row: { id: 4711, text: 'newer' } }]);
});

test('text that looks like a temporary key is sent as it is', async () => {
  const { db, connection } = await connected();
  for (const text of ['$new:', '$new: a title', '$new:1:0:id']) {
    db.mutate((tx) => tx.note.insert({ id: 5, text }));
    const [{ row }] = (await connection.next('mutate')).ops;
    assert.deepEqual(row, { id: 5, text });
  }
});
