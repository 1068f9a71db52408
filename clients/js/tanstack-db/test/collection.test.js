// Collections of TanStack DB over the client. The server sends what the test says.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { createCollection, createLiveQueryCollection, createTransaction, eq } from '@tanstack/db';
import { memoryStorage } from '@rowtide/client';
import { ScriptedServer, until } from '../../client/test/scripted.js';
import { confirmed, rowtideCollectionOptions, rowtideMutationFn } from '../src/index.js';
import { TABLES, gone, live, put, rowsOf, start, toldBy, welcome } from './server.js';

let server;
beforeEach(async () => (server = await ScriptedServer.start()));
afterEach(() => server.stop());

const acknowledged = (db) => until(db.status, ({ pending }) => pending === 0);
const observed = (db, table) => ({ get: () => db.table(table).all(), subscribe: (listener) => db.table(table).subscribe(listener) });
const NOTE = { id: 'n1', text: 'one' };
const MARK = { note: 'n1', person: 'ann', text: 'm' };

test('a collection has the rows of its table, and follows each step of the server', async () => {
  const { db, notes, marks, connection } = await start(server, { note: [NOTE], mark: [MARK] });
  assert.deepEqual(rowsOf(notes), [NOTE]);
  assert.deepEqual(rowsOf(marks), [MARK]);
  assert.ok(notes.isReady());
  assert.equal(marks.get('["n1","ann"]').text, 'm');
  const { told } = toldBy(notes);
  connection.say({ type: 'tx', cursor: '2', changes: [put('note', { id: 'n2', text: 'two' }), put('note', { id: 'n1', text: 'uno' }), gone('mark', { note: 'n1', person: 'ann' })] });
  await until(observed(db, 'mark'), (rows) => rows.length === 0);
  assert.deepEqual(told, [[['insert', 'n2', 'two'], ['update', 'n1', 'uno']]]);
  assert.deepEqual(rowsOf(marks), []);
});

test('what is written shows at once, is one mutation, and is told once until the server has more to say', async () => {
  const { db, notes, connection } = await start(server, { note: [NOTE] });
  const { told } = toldBy(notes);
  const insert = notes.insert({ id: 'n2', text: 'two' });
  assert.equal(notes.get('n2').text, 'two');
  assert.equal(db.table('note').get('n2').text, 'two');
  await insert.isPersisted.promise;
  await notes.update('n1', (draft) => void (draft.text = 'uno')).isPersisted.promise;
  await notes.delete('n2').isPersisted.promise;
  for (const ops of [
    [{ op: 'insert', table: 'note', row: { id: 'n2', text: 'two' } }],
    [{ op: 'update', table: 'note', row: { id: 'n1', text: 'uno' } }],
    [{ op: 'delete', table: 'note', row: { id: 'n2' } }],
  ]) assert.deepEqual((await connection.next('mutate')).ops, ops);
  // TanStack DB tells a second time that a row is its collection's own now: with the same value, and without a gap.
  const shown = told.flat().map(([type, key, text]) => `${type} ${key} ${text}`).filter((one, at, all) => one !== all[at - 1]);
  assert.deepEqual(shown, ['insert n2 two', 'update n2 two', 'update n1 uno', 'delete n2 two']);
  connection.say({ type: 'tx', cursor: '2', changes: [put('note', { id: 'n1', text: 'uno', version: 2 })], ack: 3 });
  await Promise.all([acknowledged(db), confirmed(insert)]);
  assert.deepEqual(rowsOf(notes), [{ id: 'n1', text: 'uno', version: 2 }]);
});

test('what others write comes in while a mutation waits for the server', async () => {
  const { db, notes, connection } = await start(server, { note: [NOTE] });
  await notes.insert({ id: 'n2', text: 'two' }).isPersisted.promise;
  connection.say({ type: 'tx', cursor: '2', changes: [put('note', { id: 'n1', text: 'theirs' })] });
  await until(observed(db, 'note'), (rows) => rows.some(({ text }) => text === 'theirs'));
  assert.deepEqual(rowsOf(notes), [{ id: 'n1', text: 'theirs' }, { id: 'n2', text: 'two' }]);
  assert.ok(db.table('note').isPending(notes.get('n2')));
});

test('a mutation that the server rejects is rolled back', async () => {
  const { db, notes, connection } = await start(server, { note: [NOTE] });
  const update = notes.update('n1', (draft) => void (draft.text = 'mine'));
  const insert = notes.insert({ id: 'n2', text: 'two' });
  await connection.next('mutate');
  await connection.next('mutate');
  connection.say({ type: 'reject', id: 1, code: 'forbidden', message: 'no' });
  connection.say({ type: 'reject', id: 2, code: 'max_notes', message: 'no' });
  await assert.rejects(confirmed(update), { code: 'forbidden' });
  await assert.rejects(confirmed(insert), { code: 'max_notes' });
  assert.deepEqual(rowsOf(notes), [NOTE]);
  assert.equal(db.status.get().pending, 0);
});

test('a mutation that the client does not take rolls its transaction back', async () => {
  const { db, notes } = await start(server, { note: [NOTE] });
  const insert = notes.insert({ id: 'n2', text: 'x'.repeat(2 ** 20) });
  await assert.rejects(confirmed(insert), { code: 'too_large' });
  await assert.rejects(insert.isPersisted.promise, { code: 'too_large' });
  assert.deepEqual(rowsOf(notes), [NOTE]);
  assert.equal(db.pending().length, 0);
});

test('a transaction over several collections is one mutation', async () => {
  const { db, notes, marks, connection } = await start(server, { note: [NOTE], mark: [MARK] });
  const move = createTransaction({ mutationFn: rowtideMutationFn(db) });
  move.mutate(() => {
    notes.insert({ id: 'n2', text: 'two' });
    marks.insert({ note: 'n2', person: 'ann', text: 'mine' });
    marks.delete('["n1","ann"]');
    notes.update('n2', (draft) => void (draft.text = 'zwei'));
  });
  assert.deepEqual((await connection.next('mutate')).ops, [
    { op: 'insert', table: 'note', row: { id: 'n2', text: 'zwei' } },
    { op: 'insert', table: 'mark', row: { note: 'n2', person: 'ann', text: 'mine' } },
    { op: 'delete', table: 'mark', row: { note: 'n1', person: 'ann' } },
  ]);
  await move.isPersisted.promise;
  assert.equal(db.pending().length, 1);
  connection.say({ type: 'reject', id: 1, code: 'forbidden', message: 'no' });
  await assert.rejects(confirmed(move), { code: 'forbidden' });
  assert.deepEqual([rowsOf(notes), rowsOf(marks)], [[NOTE], [MARK]]);
});

test('a transaction with a collection of something else is none of this client', async () => {
  const { db, notes } = await start(server, {});
  const other = createCollection({ id: 'other', getKey: ({ id }) => id, sync: { sync: ({ markReady }) => markReady() } });
  const both = createTransaction({ mutationFn: rowtideMutationFn(db) });
  both.mutate(() => {
    notes.insert({ id: 'n2', text: 'two' });
    other.insert({ id: 1 });
  });
  await assert.rejects(both.isPersisted.promise, /`other` is not of this client/);
  assert.deepEqual([rowsOf(notes), db.pending()], [[], []]);
});

test('only columns are written: what TanStack DB adds is left out, and what is deleted is NULL', async () => {
  const { notes, connection } = await start(server, { note: [{ ...NOTE, tag: 'x' }] });
  notes.insert({ ...notes.get('n1'), id: 'n2' });
  assert.deepEqual((await connection.next('mutate')).ops[0].row, { id: 'n2', text: 'one', tag: 'x' });
  notes.update('n1', (draft) => void (draft.tag = undefined));
  assert.deepEqual((await connection.next('mutate')).ops[0].row, { id: 'n1', tag: null });
});

test('a row whose key the server makes shows until it has it, and takes it in one step', async () => {
  const { db, notes, marks, connection } = await start(server, {});
  const { told } = toldBy(notes);
  const insert = notes.insert({ text: 'new' });
  await insert.isPersisted.promise;
  const [{ id }] = rowsOf(notes);
  assert.match(id, /^\$new:/);
  assert.deepEqual(db.table('note').all(), [{ id, text: 'new' }]);
  marks.insert({ note: id, person: 'ann', text: 'm' });
  await connection.next('mutate');
  await connection.next('mutate');
  told.length = 0;
  connection.say({ type: 'tx', cursor: '2', changes: [put('note', { id: 7, text: 'new' })], ack: 1, keys: [{ id: 1, op: 0, key: { id: 7 } }] });
  await confirmed(insert);
  assert.deepEqual(told.map((step) => step.sort()), [[['delete', id, 'new'], ['insert', 7, 'new']]]);
  assert.deepEqual(rowsOf(notes), [{ id: 7, text: 'new' }]);
  assert.deepEqual(rowsOf(marks), [{ note: 7, person: 'ann', text: 'm' }]);
});

test('live queries join, filter and order what several collections have, also what is not confirmed', async () => {
  const { db, notes, marks, connection } = await start(server, {
    note: [NOTE, { id: 'n2', text: 'two' }, { id: 'n3', text: 'zoo' }],
    mark: [MARK, { note: 'n2', person: 'ann', text: 'x' }, { note: 'n3', person: 'ben', text: 'b' }],
  });
  const mine = createLiveQueryCollection((q) =>
    q.from({ mark: marks })
      .join({ note: notes }, ({ mark, note }) => eq(mark.note, note.id), 'inner')
      .where(({ mark }) => eq(mark.person, 'ann'))
      .orderBy(({ note }) => note.text, 'desc')
      .select(({ mark, note }) => ({ note: note.id, text: note.text, mark: mark.text })));
  await mine.preload();
  const shown = () => mine.toArray.map(({ note, text, mark }) => [note, text, mark].join(' '));
  assert.deepEqual(shown(), ['n2 two x', 'n1 one m']);
  db.mutate((tx) => {
    tx.note.update({ id: 'n1', text: 'zebra' });
    tx.mark.insert({ note: 'n3', person: 'ann', text: 'new' });
  });
  assert.deepEqual(shown(), ['n3 zoo new', 'n1 zebra m', 'n2 two x']);
  await connection.next('mutate');
  connection.say({ type: 'reject', id: 1, code: 'forbidden', message: 'no' });
  await acknowledged(db);
  assert.deepEqual(shown(), ['n2 two x', 'n1 one m']);
});

test('a collection of a stored copy is ready without a connection, one of a new client when the rows have come', async () => {
  const storage = memoryStorage();
  const first = await start(server, { note: [NOTE] }, { storage });
  await first.db.close();
  // Nobody answers this one.
  const offline = server.client({ storage, tables: TABLES });
  await server.accept();
  const notes = createCollection(rowtideCollectionOptions({ client: offline, table: 'note' }));
  await notes.preload();
  assert.deepEqual(rowsOf(notes), [NOTE]);
  const fresh = server.client({ tables: TABLES });
  const empty = createCollection(rowtideCollectionOptions({ client: fresh, table: 'note' }));
  const loaded = empty.preload();
  fresh.mutate((tx) => tx.note.insert({ id: 'n2', text: 'two' }));
  await fresh.opened;
  assert.equal(empty.status, 'loading');
  await welcome(await server.accept());
  await loaded;
  assert.equal(empty.status, 'ready');
});

test('a client that stops before there are rows is an error of its collections', async () => {
  const db = server.client({ tables: TABLES });
  const notes = createCollection(rowtideCollectionOptions({ client: db, table: 'note' }));
  const loaded = notes.preload();
  (await server.accept()).end(4426, 'client_too_old');
  await assert.rejects(loaded, { code: 'client_too_old' });
  assert.equal(notes.status, 'error');
});

test('a collection that is cleaned up hears no more, and has the rows of that time when it is used again', async () => {
  const { db, notes, connection } = await start(server, { note: [NOTE] });
  await notes.cleanup();
  assert.equal(notes.size, 0);
  connection.say({ type: 'tx', cursor: '2', changes: [put('note', { id: 'n2', text: 'two' })] });
  await until(observed(db, 'note'), (rows) => rows.length === 2);
  assert.equal(notes.size, 0);
  await notes.preload();
  assert.equal(notes.size, 2);
});

test('a table whose key nobody knows yet takes no rows', async () => {
  const db = server.client({ connect: false });
  const notes = createCollection(rowtideCollectionOptions({ client: db, table: 'note' }));
  assert.throws(() => notes.insert({ id: 'n1' }), /give `createClient` its `tables`/);
  db.connect();
  await welcome(await server.accept(), { note: [NOTE] });
  await Promise.all([live(db), notes.preload()]);
  assert.deepEqual(rowsOf(notes), [NOTE]);
});
