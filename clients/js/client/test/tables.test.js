// What an application tells of its tables: what a new row has in columns that were left out, and which tables there are.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { memoryStorage } from '../src/index.js';
import { ScriptedServer, until } from './scripted.js';

let server;
beforeEach(async () => (server = await ScriptedServer.start()));
afterEach(() => server.stop());

const tables = { note: { key: ['id'], defaults: { done: false, due: null, labels: [] } } };
const live = (db) => until(db.status, ({ connection }) => connection === 'live');
const filled = { done: false, due: null, labels: [] };

test('a new row has what the database puts into it, which is not sent, and then what the server says', async () => {
  const db = server.client({ tables });
  const made = () => db.table('note').get(1);
  const { confirmed } = db.mutate((tx) => tx.note.insert({ id: 1, text: 'a', due: '2026-01-01' }));
  assert.deepEqual(made(), { ...filled, id: 1, text: 'a', due: '2026-01-01' });
  const connection = await server.accept();
  const rows = [{ id: 2, text: 'there', done: true, due: '2025-01-01', labels: ['x'] }];
  await connection.welcome({ rows });
  assert.deepEqual((await connection.next('mutate')).ops[0].row, { id: 1, text: 'a', due: '2026-01-01' });
  // An insert of a row that is there is an update, and leaves what it does not name.
  db.mutate((tx) => tx.note.insert({ id: 2, text: 'b' }));
  assert.deepEqual(db.table('note').get(2), { ...rows[0], text: 'b' });
  // A trigger had another opinion.
  const row = { id: 1, text: 'a', done: true, due: '2026-01-01', labels: ['new'] };
  connection.say({ type: 'tx', cursor: '2', changes: [{ op: 'put', table: 'note', row }], ack: 1 });
  await confirmed;
  assert.deepEqual(made(), row);
});

test('a new row has it after a reload too, also where the server has not had the table meanwhile', async () => {
  const options = { tables: { ...tables, later: { key: ['id'], defaults: filled } }, storage: memoryStorage(), user: 'ann' };
  const before = server.client(options);
  before.disconnect();
  await before.opened;
  before.mutate((tx) => {
    tx.note.insert({ text: 'a' });
    tx.later.insert({ id: 7 });
    tx.later.delete(7);
    tx.later.insert({ id: 7, due: 'soon' });
  });
  await before.close();
  const db = server.client(options);
  db.disconnect();
  await db.opened;
  const [note] = db.table('note').all();
  assert.deepEqual(note, { ...filled, id: note.id, text: 'a' });
  assert.deepEqual(db.table('later').all(), [{ ...filled, id: 7, due: 'soon' }]);
  db.connect();
  const connection = await server.accept();
  await connection.welcome();
  await live(db);
  assert.deepEqual(db.table('later').all(), []);
  connection.say({ type: 'error', code: 'restarting', message: 'because' });
  connection.end(1012, 'restarting', { retryAfterMs: 0 });
  const again = await server.accept();
  await again.next('connect');
  const keys = { note: { key: ['id'] }, later: { key: ['id'] } };
  again.say({ type: 'connected', protocol: 1, userId: 'ann', mode: 'resume', lastMutation: 0, refused: [], tables: keys, features: [] });
  again.say({ type: 'ready', cursor: '1' });
  await live(db);
  await until({ get: () => db.table('later').all(), subscribe: (listener) => db.subscribe(listener) }, (rows) => rows.length > 0);
  assert.deepEqual(db.table('later').all(), [{ ...filled, id: 7, due: 'soon' }]);
});

test('a table that is not there is no empty one', async (t) => {
  const warn = t.mock.method(console, 'warn', () => {});
  const said = () => warn.mock.calls.map(({ arguments: [text] }) => text);
  const db = server.client({ tables: { ...tables, gone: { key: ['id'] } } });
  assert.throws(() => db.table('typo'), { name: 'TypeError', message: 'there is no table `typo`' });
  assert.deepEqual(db.table('gone').all(), []);
  const untyped = server.client();
  assert.deepEqual([...untyped.table('typo').all(), ...untyped.table('note').all()], []);
  assert.deepEqual(said(), []);
  for (const client of [db, untyped]) {
    const connection = await server.accept();
    await connection.welcome();
    await live(client);
  }
  assert.deepEqual(said().sort(), ['there is no table `gone`', 'there is no table `typo`']);
  // One that is asked for later is told then, and each once.
  untyped.table('other');
  untyped.table('typo');
  for (const client of [db, untyped]) {
    client.disconnect();
    client.connect();
    await (await server.accept()).welcome({ mode: 'resume' });
    await live(client);
  }
  assert.equal(said().filter((text) => text === 'there is no table `other`').length, 1);
  assert.equal(said().length, 3);
  // What the server has is there, also for a client that was not told of it.
  assert.deepEqual(server.client({ tables: {} }).tables(), []);
});
