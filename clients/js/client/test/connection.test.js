// What the client does after each ending of a connection, and when it asks for tokens. The server sends
// what the test says.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { wait } from '../src/connection.js';
import { memoryStorage } from '../src/index.js';
import { ScriptedServer, token, until } from './scripted.js';

let server;
beforeEach(async () => (server = await ScriptedServer.start()));
afterEach(() => server.stop());

const live = (db) => until(db.status, ({ connection }) => connection === 'live');
const put = (id, text) => ({ op: 'put', table: 'note', row: { id, text } });

test('waits grow to a limit and are spread from zero', () => {
  for (const [failures, ceiling] of [[0, 500], [1, 1000], [3, 4000], [20, 30_000]]) {
    const waits = Array.from({ length: 300 }, () => wait(failures));
    assert.ok(waits.every((ms) => ms >= 0 && ms <= ceiling));
    assert.ok(waits.some((ms) => ms < ceiling / 4) && waits.some((ms) => ms > (ceiling * 3) / 4));
  }
  assert.ok(Array.from({ length: 100 }, () => wait(9, 10)).every((ms) => ms <= 10));
});

test('it connects as the protocol says, shows a snapshot, and then each step', async () => {
  const db = server.client({ appVersion: 7 });
  const connection = await server.accept();
  assert.equal(connection.socket.protocol, 'rowtide.v1');
  const connect = await connection.welcome({ rows: [{ id: 1, text: 'a' }] });
  assert.match(connect.clientId, /^[0-9a-f]{32}$/);
  assert.deepEqual({ ...connect, clientId: '' }, { type: 'connect', protocol: 1, clientId: '', token: token('ann'), appVersion: 7, accept: ['deflate'] });
  const status = await live(db);
  assert.deepEqual([status.user, status.pending, status.error], ['ann', 0, undefined]);
  const steps = [];
  db.subscribe((changes) => steps.push(changes.length));
  connection.say({ type: 'tx', cursor: '2', changes: [put(2, 'b'), put(3, 'c')] });
  const { confirmed } = db.mutate((tx) => tx.note.update({ id: 1, text: 'mine', at: new Date(0), nothing: undefined }));
  assert.equal(db.table('note').get(1).text, 'mine');
  assert.ok(db.table('note').isPending(1));
  assert.equal(db.status.get().pending, 1);
  const row = { id: 1, text: 'mine', at: '1970-01-01T00:00:00.000Z' };
  assert.deepEqual(await connection.next('mutate'), { type: 'mutate', id: 1, ops: [{ op: 'update', table: 'note', row }] });
  connection.say({ type: 'tx', cursor: '3', changes: [put(1, 'MINE')], ack: 1 });
  await confirmed;
  assert.equal(db.table('note').get(1).text, 'MINE');
  assert.deepEqual(steps, [1, 2, 1]);
});

test('a call is sent with the operations beside it, and shows nothing by itself', async () => {
  const db = server.client();
  const connection = await server.accept();
  await connection.welcome({ rows: [{ id: 1, text: 'a' }] });
  await live(db);
  const { confirmed } = db.mutate((tx, call) => {
    call('accept', { token: 't', at: new Date(0) });
    tx.note.update({ id: 1, text: 'mine' });
    call('leave');
  });
  assert.equal(db.table('note').get(1).text, 'mine');
  const { ops } = await connection.next('mutate');
  assert.deepEqual(ops, [
    { op: 'call', name: 'accept', args: { token: 't', at: '1970-01-01T00:00:00.000Z' } },
    { op: 'update', table: 'note', row: { id: 1, text: 'mine' } },
    { op: 'call', name: 'leave', args: {} },
  ]);
  let deep = {};
  for (let level = 0; level < 200; level += 1) deep = { deep };
  assert.throws(() => db.mutate((_, call) => call('accept', deep)), { code: 'bad_request' });
  connection.say({ type: 'tx', cursor: '2', changes: [put(2, 'b')], ack: 1 });
  await confirmed;
  assert.equal(db.table('note').get(1).text, 'a');
});

test('a rejected mutation is no longer shown, and its promise says why', async () => {
  const db = server.client();
  const connection = await server.accept();
  await connection.welcome({ rows: [{ id: 1, text: 'a' }] });
  await live(db);
  const outcomes = [];
  db.onAcked(({ id, code, ops }) => outcomes.push([id, code, ops.length]));
  const { id, confirmed } = db.mutate((tx) => tx.note.delete(1));
  assert.equal(db.table('note').get(1), undefined);
  const { id: number } = await connection.next('mutate');
  connection.say({ type: 'reject', id: number, code: 'forbidden', message: 'no rule allows it' });
  await assert.rejects(confirmed, { name: 'RowtideError', code: 'forbidden', message: 'no rule allows it' });
  assert.equal(db.table('note').get(1).text, 'a');
  assert.deepEqual(outcomes, [[id, 'forbidden', 1]]);
});

test('a client id that cannot be had any more takes no mutation with it', async () => {
  const db = server.client();
  let connection = await server.accept();
  const { clientId } = await connection.welcome({ rows: [{ id: 1, text: 'a' }] });
  await live(db);
  const first = db.mutate((tx) => tx.note.update({ id: 1, text: 'b' }));
  await connection.next('mutate');
  connection.say({ type: 'tx', cursor: '2', changes: [put(1, 'b')], ack: 1 });
  await first.confirmed;
  const second = db.mutate((tx) => tx.note.update({ id: 1, text: 'c' }));
  await connection.next('mutate');
  connection.end(4403, 'forbidden');
  connection = await server.accept();
  const anew = await connection.welcome({ rows: [{ id: 1, text: 'b' }] });
  assert.notEqual(anew.clientId, clientId);
  assert.equal(anew.acked ?? 0, 0);
  assert.equal((await connection.next('mutate')).id, 1);
  assert.equal(db.table('note').get(1).text, 'c');
  connection.say({ type: 'tx', cursor: '3', changes: [put(1, 'c')], ack: 1 });
  await second.confirmed;
});

test('it comes back with its cursor, and sends again what is not acknowledged', async () => {
  const db = server.client();
  let connection = await server.accept();
  const { clientId } = await connection.welcome({ rows: [{ id: 1, text: 'a' }], cursor: 'c1' });
  await live(db);
  const first = db.mutate((tx) => tx.note.update({ id: 1, text: 'b' }));
  const second = db.mutate((tx) => tx.note.update({ id: 1, text: 'c' }));
  await connection.next('mutate');
  connection.socket.terminate();
  connection = await server.accept();
  const again = await connection.welcome({ mode: 'resume', lastMutation: 1, cursor: 'c2' });
  assert.deepEqual([again.clientId, again.cursor], [clientId, 'c1']);
  await first.confirmed;
  assert.equal((await connection.next('mutate')).id, 2);
  connection.say({ type: 'tx', cursor: 'c3', changes: [], ack: 2 });
  await second.confirmed;
});

for (const [closeCode, code] of [
  [4408, 'timeout'],
  [4409, 'slow_consumer'],
  [4429, 'rate_limit_exceeded'],
  [1012, 'restarting'],
  [4503, 'unavailable'],
]) {
  test(`${code}: it says so and connects again`, async () => {
    const db = server.client();
    const connection = await server.accept();
    await connection.welcome();
    await live(db);
    const offline = until(db.status, ({ connection }) => connection === 'offline');
    connection.end(closeCode, code, { retryAfterMs: 1 });
    assert.equal((await offline).error.code, code);
    await (await server.accept()).welcome({ mode: 'resume' });
    assert.equal((await live(db)).error, undefined);
  });
}

for (const [closeCode, code] of [[4400, 'bad_request'], [4410, 'superseded'], [4426, 'client_too_old']]) {
  test(`${code}: it stops and says so`, async () => {
    const db = server.client();
    const connection = await server.accept();
    await connection.next('connect');
    // By the close code alone.
    connection.socket.close(closeCode);
    const status = await until(db.status, ({ connection }) => connection === 'stopped');
    assert.equal(status.error.code, code);
  });
}

test('unauthorized: it asks for another token', async () => {
  const asked = [];
  server.client({ token: async (why) => (asked.push(why.rejected), token('ann', 4e9 + asked.length)) });
  let connection = await server.accept();
  const first = await connection.next('connect');
  connection.end(4401, 'unauthorized');
  connection = await server.accept();
  const second = await connection.welcome();
  assert.notEqual(second.token, first.token);
  assert.deepEqual(asked, [false, true]);
});

test('forbidden: it takes another client id, under which its mutations go on', async () => {
  const db = server.client();
  let connection = await server.accept();
  const first = await connection.next('connect');
  db.mutate((tx) => tx.note.insert({ id: 1, text: 'a' }));
  connection.end(4403, 'forbidden');
  connection = await server.accept();
  const second = await connection.welcome();
  assert.notEqual(second.clientId, first.clientId);
  assert.equal((await connection.next('mutate')).id, 1);
});

test('a token is replaced on the open connection before it expires', async () => {
  let asked = 0;
  server.client({ token: () => token('ann', Math.floor(Date.now() / 1000) + (asked++ ? 3600 : 2)) });
  const connection = await server.accept();
  const connect = await connection.welcome();
  const auth = await connection.next('auth');
  assert.notEqual(auth.token, connect.token);
});

test('while `token` fails it is called again and again, and the stored copy is shown', async () => {
  const storage = memoryStorage();
  const before = server.client({ storage });
  let connection = await server.accept();
  await connection.welcome({ rows: [{ id: 1, text: 'a' }] });
  await live(before);
  await before.close();
  let offline = true;
  const db = server.client({
    storage,
    token: () => (offline ? Promise.reject(new Error('no network')) : token('ann')),
  });
  await db.opened;
  assert.equal(db.table('note').get(1).text, 'a');
  assert.equal((await until(db.status, ({ error }) => error)).error.code, 'token');
  db.mutate((tx) => tx.note.update({ id: 1, text: 'written offline' }));
  offline = false;
  connection = await server.accept();
  await connection.welcome({ mode: 'resume' });
  assert.equal((await connection.next('mutate')).ops[0].row.text, 'written offline');
});

test('the next client of the same storage sends the pending mutations, under the same numbers', async () => {
  const storage = memoryStorage();
  const before = server.client({ storage });
  let connection = await server.accept();
  const { clientId } = await connection.welcome();
  await live(before);
  before.mutate((tx) => tx.note.insert({ id: 1, text: 'a' }));
  await connection.next('mutate');
  await before.close();
  const db = server.client({ storage });
  await db.opened;
  assert.equal(db.table('note').get(1).text, 'a');
  const outcomes = [];
  db.onAcked(({ code }) => outcomes.push(code));
  connection = await server.accept();
  const rejections = [{ id: 1, code: 'max_notes', message: 'no' }];
  const connect = await connection.welcome({ lastMutation: 1, rejections });
  assert.equal(connect.clientId, clientId);
  await live(db);
  assert.deepEqual([outcomes, db.table('note').all(), db.pending()], [['max_notes'], [], []]);
});

test('the former names of the API are still there', async () => {
  const asked = [];
  const db = server.client({ token: (why) => (asked.push(why), token('ann', 4e9 + asked.length)) });
  let connection = await server.accept();
  await connection.next('connect');
  connection.end(4401, 'unauthorized');
  connection = await server.accept();
  await connection.welcome();
  await live(db);
  assert.deepEqual(asked, [{ rejected: false, refused: false }, { rejected: true, refused: true }]);
  const outcomes = [];
  const stop = db.onSettled(({ id, code }) => outcomes.push([id, code]));
  const { id, confirmed } = db.mutate((tx) => tx.note.insert({ id: 1 }));
  await connection.next('mutate');
  connection.say({ type: 'reject', id: 1, code: 'forbidden', message: 'no' });
  await assert.rejects(confirmed);
  assert.deepEqual(outcomes, [[id, 'forbidden']]);
  stop();
  const second = db.mutate((tx) => tx.note.insert({ id: 2 }));
  connection.say({ type: 'tx', cursor: '2', changes: [], ack: 2 });
  await second.confirmed;
  assert.equal(outcomes.length, 1);
});

test('another user sees nothing of the former one, whose mutations are rejected', async () => {
  let user = 'ann';
  const db = server.client({ token: () => token(user), tables: { note: { key: ['id'] } } });
  let connection = await server.accept();
  await connection.welcome({ rows: [{ id: 1, text: "ann's" }] });
  await live(db);
  const { confirmed } = db.mutate((tx) => tx.note.insert({ id: 2, text: "ann's too" }));
  await connection.next('mutate');
  user = 'bob';
  connection.end(1012, 'restarting', { retryAfterMs: 1 });
  await assert.rejects(confirmed, { code: 'signed_out' });
  assert.deepEqual(db.table('note').all(), []);
  connection = await server.accept();
  const connect = await connection.welcome();
  assert.deepEqual([connect.token, connect.cursor], [token('bob'), undefined]);
  assert.equal((await live(db)).user, 'bob');
});

test('nobody is signed in: it connects without a token, and whoever signs in has a copy of their own', async () => {
  let user = null;
  const db = server.client({ token: () => user && token(user), tables: { note: { key: ['id'] } } });
  let connection = await server.accept();
  let connect = await connection.welcome({ user: null, rows: [{ id: 1, text: 'public' }] });
  assert.ok(!('token' in connect));
  assert.equal((await live(db)).user, undefined);
  const { confirmed } = db.mutate((tx) => tx.note.insert({ id: 2, text: 'mine' }));
  await connection.next('mutate');
  connection.say({ type: 'reject', id: 1, code: 'forbidden', message: 'no token' });
  connection.say({ type: 'tx', cursor: '2', changes: [], ack: 1 });
  await assert.rejects(confirmed, { code: 'forbidden' });
  assert.deepEqual(db.table('note').all().map(({ id }) => id), [1]);
  user = 'ann';
  db.disconnect();
  db.connect();
  connection = await server.accept();
  connect = await connection.welcome();
  assert.deepEqual([connect.token, connect.cursor], [token('ann'), undefined]);
  assert.equal((await live(db)).user, 'ann');
  user = null;
  connection.end(4401, 'unauthorized');
  connection = await server.accept();
  connect = await connection.next('connect');
  assert.ok(!('token' in connect));
});

test('a token of nobody is none', async () => {
  const db = server.client({ token: () => token('') });
  const { error } = await until(db.status, ({ connection }) => connection === 'offline');
  assert.equal(error.code, 'token');
});

test('a client that is disconnected sends nothing until `connect`', async () => {
  const db = server.client({ connect: false, tables: { note: { key: ['id'] } } });
  await until(db.status, ({ connection }) => connection === 'offline');
  db.mutate((tx) => tx.note.insert({ id: 1, text: 'a' }));
  assert.equal(db.table('note').get(1).text, 'a');
  db.connect();
  const connection = await server.accept();
  await connection.welcome();
  assert.equal((await connection.next('mutate')).id, 1);
  db.disconnect();
  await connection.closed;
  assert.equal(db.status.get().connection, 'offline');
});

test('a mutation that the server could not accept is an error at once, and shows nothing', async () => {
  const db = server.client({ tables: { note: { key: ['id'] } } });
  const rejected = (write, code) => assert.throws(() => db.mutate(write), { code });
  rejected(() => {}, 'too_large');
  rejected((tx) => tx.note.update({ text: 'no key' }), 'bad_request');
  rejected((tx) => tx.other.delete('a key whose column is not known'), 'bad_request');
  rejected((tx) => tx.note.insert({ id: 1, text: 'x'.repeat(1 << 20) }), 'too_large');
  rejected((tx) => {
    for (let id = 0; id <= 500; id++) tx.note.insert({ id });
  }, 'too_large');
  let deep = 1;
  for (let level = 0; level <= 100; level++) deep = [deep];
  rejected((tx) => tx.note.insert({ id: 1, deep }), 'bad_request');
  assert.throws(() => db.mutate(async () => {}), TypeError);
  assert.throws(() => db.mutate((tx) => {
    tx.note.insert({ id: 1 });
    throw new Error('a mistake of the application');
  }), /a mistake/);
  assert.deepEqual([db.table('note').all(), db.pending()], [[], []]);
});

test('a message that breaks the protocol ends the connection, and the next connection works', async () => {
  const db = server.client();
  let connection = await server.accept();
  await connection.welcome();
  await live(db);
  const offline = until(db.status, ({ connection }) => connection === 'offline');
  connection.say({ type: 'tx', cursor: '2', changes: [put(1, 'a'), { op: 'put', table: 'other', row: {} }] });
  assert.equal((await offline).error.code, 'protocol');
  assert.deepEqual(db.table('note').all(), []);
  connection = await server.accept();
  await connection.welcome();
  await live(db);
});
