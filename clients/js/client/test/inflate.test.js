// Deflated frames: what comes over the socket is heard in order, whether it is deflated or not, and to the end. The server
// sends what the test says. The last test has a broken frame, behind which nothing is asked for any more.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { deflateRawSync } from 'node:zlib';
import { textOf } from '../src/inflate.js';
import { random } from './random.js';
import { ScriptedServer, soon, until } from './scripted.js';

let server;
beforeEach(async () => (server = await ScriptedServer.start()));
afterEach(() => server.stop());

const live = (db) => until(db.status, ({ connection }) => connection === 'live');
const deflated = (message) => deflateRawSync(JSON.stringify(message));
const note = (id, bytes) => ({ id, text: `${id} é `.repeat(bytes / 5) });
const connected = { type: 'connected', protocol: 1, userId: 'ann', mode: 'snapshot', lastMutation: 0, refused: [], tables: { note: { key: ['id'] } } };

test('a frame inflates to exactly its text, whatever the socket gives', async () => {
  const text = JSON.stringify(Array.from({ length: 20_000 }, (_, id) => note(id, 50)));
  const frame = deflateRawSync(text);
  for (const given of [frame, new Blob([frame]), new Uint8Array(frame).buffer]) assert.equal(await textOf(given), text);
});

test('what is broken, cut off or without an end is told apart', async () => {
  const frame = deflateRawSync('x'.repeat(100_000));
  await assert.rejects(textOf(Buffer.from('{"type":"pong"}')));
  await assert.rejects(textOf(frame.subarray(0, -1)));
  assert.equal((await textOf(frame, 100_000)).length, 100_000);
  await assert.rejects(textOf(frame, 99_999), /more than 99999 bytes/);
});

for (const seed of [1, 2, 3]) {
  test(`messages are heard in the order in which they were sent, deflated or not (seed ${seed})`, async () => {
    const { below } = random(seed);
    const heard = [];
    let end;
    const last = new Promise((resolve) => (end = resolve));
    const trace = (direction, message) => {
      if (direction === 'received' && heard.push(message) === 82) end();
    };
    const db = server.client({ trace });
    const connection = await server.accept();
    assert.deepEqual((await connection.next('connect')).accept, ['deflate']);
    const said = [connected];
    for (let id = 1; id <= 40; id += 1) said.push({ type: 'snapshot', table: 'note', rows: [note(id, [50, 5_000, 200_000][below(3)])] });
    said.push({ type: 'ready', cursor: '0' });
    for (let at = 1; at <= 40; at += 1) {
      said.push({ type: 'tx', cursor: String(at), changes: [{ op: 'put', table: 'note', row: { id: 1 + below(40), text: `${at}` } }] });
    }
    for (const message of said) {
      if (below(2)) connection.say(message);
      else connection.socket.send(deflated(message));
    }
    await soon(last, 'the last message');
    assert.deepEqual(heard, said);
    assert.equal(db.table('note').get(said.at(-1).changes[0].row.id).text, '40');
  });
}

test('an error behind deflated frames is heard, and not only that the connection has ended', async () => {
  const db = server.client();
  const connection = await server.accept();
  await connection.next('connect');
  connection.say(connected);
  for (let id = 1; id <= 20; id += 1) connection.socket.send(deflated({ type: 'snapshot', table: 'note', rows: [note(id, 200_000)] }));
  connection.end(4426, 'client_too_old');
  const { error } = await until(db.status, ({ connection }) => connection === 'stopped');
  assert.deepEqual([error.code, error.message], ['client_too_old', 'because']);
});

test('frames of a connection that was given up are not heard on the next', async () => {
  const db = server.client();
  let connection = await server.accept();
  await connection.welcome({ rows: [{ id: 1, text: 'a' }] });
  await live(db);
  for (let at = 2; at <= 20; at += 1) {
    const row = { ...note(1, 200_000), at };
    connection.socket.send(deflated({ type: 'tx', cursor: String(at), changes: [{ op: 'put', table: 'note', row }] }));
  }
  db.disconnect();
  db.connect();
  connection = await server.accept();
  const { cursor } = await connection.welcome({ mode: 'resume', cursor: 'c9' });
  await live(db);
  const { at } = db.table('note').get(1);
  assert.equal(String(at ?? 1), cursor, 'it has what its cursor says');
});

for (const [what, stream] of [['nothing inflates', undefined], ['something inflates, but not this', class { constructor() { throw new TypeError('format'); } }]]) {
  test(`where ${what}, nothing is asked for`, async () => {
    const own = globalThis.DecompressionStream;
    globalThis.DecompressionStream = stream;
    try {
      const db = server.client();
      const connection = await server.accept();
      const connect = await connection.welcome({ rows: [{ id: 1, text: 'a' }] });
      assert.ok(!('accept' in connect));
      await live(db);
      assert.equal(db.table('note').get(1).text, 'a');
    } finally {
      globalThis.DecompressionStream = own;
    }
  });
}

test('a broken frame ends the connection, says so, and comes as text on the next', async () => {
  const db = server.client();
  let connection = await server.accept();
  await connection.next('connect');
  connection.say(connected);
  connection.socket.send(Buffer.from('no deflate'));
  connection.say({ type: 'ready', cursor: 'never heard' });
  const { error } = await until(db.status, ({ connection }) => connection === 'offline');
  assert.equal(error.code, 'protocol');
  assert.match(error.message, /a deflated frame is broken/);
  await soon(connection.closed, 'the end');
  db.connect();
  connection = await server.accept();
  const connect = await connection.welcome({ rows: [{ id: 1, text: 'a' }] });
  assert.ok(!('accept' in connect) && !('cursor' in connect));
  await live(db);
});
