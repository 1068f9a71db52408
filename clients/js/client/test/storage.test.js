// A storage that fails or never answers: the client goes on in memory and says so, and `stored` says what
// will outlive the page.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { indexedDBStorage, memoryStorage } from '../src/index.js';
import { ScriptedServer, token, until } from './scripted.js';

let server;
beforeEach(async () => {
  server = await ScriptedServer.start();
  // The clock of those who wait for a storage. Other timers go on.
  mock.timers.enable({ apis: ['setInterval'] });
});
afterEach(async () => {
  let stopped = false;
  await passing(server.stop().then(() => (stopped = true)), () => stopped);
  mock.timers.reset();
  delete globalThis.indexedDB;
  if (navigatorBefore) Object.defineProperty(globalThis, 'navigator', navigatorBefore);
  else delete globalThis.navigator;
});
const navigatorBefore = Object.getOwnPropertyDescriptor(globalThis, 'navigator');

const NEVER = new Promise(() => {});
const live = (db) => until(db.status, ({ connection }) => connection === 'live');

/** Lets seconds pass until something is there. */
async function passing(promise, isThere) {
  while (!isThere()) {
    mock.timers.tick(1000);
    await new Promise(setImmediate);
  }
  return promise;
}

/** Lets seconds pass until the client knows what becomes of its copy. */
function known(db) {
  const isKnown = () => db.status.get().durable !== undefined;
  return passing(until(db.status, isKnown), isKnown);
}

/** A storage that keeps what it is given, over the page's end too, with methods that a test can break. */
function lasting(broken = {}) {
  const memory = memoryStorage();
  const storage = { broken, opened: 0, shared: false };
  storage.open = async (name) => {
    storage.opened += 1;
    const store = await (broken.open?.() ?? memory.open(name));
    const call = (method) => (...given) => broken[method]?.() ?? store[method](...given);
    return { load: call('load'), write: call('write'), clear: call('clear'), close: call('close') };
  };
  return storage;
}

/** What a browser has, so that the client stores its copy in IndexedDB. */
function browser({ open = () => ({}), query = async () => ({}) }) {
  globalThis.indexedDB = { open };
  Object.defineProperty(globalThis, 'navigator', { value: { locks: { query } }, configurable: true });
}

const fails = () => Promise.reject(new Error('it is broken'));
const throws = () => {
  throw new Error('it is broken');
};
for (const [what, storage] of [
  ['`open` throws', () => lasting({ open: throws })],
  ['`open` fails', () => lasting({ open: fails })],
  ['`open` never answers', () => lasting({ open: () => NEVER })],
  ['`load` fails', () => lasting({ load: fails })],
  ['`load` never answers', () => lasting({ load: () => NEVER })],
  ['the first `write` fails', () => lasting({ write: fails })],
  ['the first `write` never answers', () => lasting({ write: () => NEVER })],
  ['`indexedDB.open` throws', () => browser({ open: throws })],
  ['`indexedDB.open` fails', () => browser({ open: () => { const request = { error: new Error('it is broken') }; queueMicrotask(() => request.onerror()); return request; } })],
  ['`indexedDB.open` never answers', () => browser({})],
  ['the locks never answer', () => browser({ query: () => NEVER })],
]) {
  test(`${what}: the client goes on in memory, and says that nothing will outlive the page`, async () => {
    const db = server.client({ storage: storage() });
    const { durable, storageError } = await known(db);
    assert.equal(durable, false);
    assert.match(storageError, /it is broken|does not answer/);
    const connection = await server.accept();
    await connection.welcome({ rows: [{ id: 1, text: 'a' }] });
    const status = await live(db);
    assert.deepEqual([status.leads, status.durable, status.error], [true, false, undefined]);
    const { confirmed, stored } = db.mutate((tx) => tx.note.update({ id: 1, text: 'b' }));
    let isStored = false;
    stored.then(() => (isStored = true));
    await connection.next('mutate');
    assert.equal(isStored, false);
    connection.say({ type: 'tx', cursor: '2', changes: [{ op: 'put', table: 'note', row: { id: 1, text: 'b' } }], ack: 1 });
    await confirmed;
    // The server has it.
    await stored;
  });
}

test('a storage that fails when no token can be had is given up, and the token is asked for again', async () => {
  let asked = 0;
  const db = server.client({ storage: lasting({ open: () => NEVER }), token: () => (asked++ ? token('ann') : fails()) });
  await known(db);
  await (await server.accept()).welcome();
  assert.equal((await live(db)).durable, false);
});

test('a mutation says when it is stored; one that cannot be stored says so, and is sent when the storage is back', async () => {
  const storage = lasting();
  const db = server.client({ storage });
  const connection = await server.accept();
  await connection.welcome();
  assert.equal((await live(db)).durable, true);
  const insert = (id) => db.mutate((tx) => tx.note.insert({ id }));
  // Before the server has it.
  await insert(1).stored;
  assert.equal((await connection.next('mutate')).id, 1);
  const reloaded = await storage.open(`rowtide ${server.url} ann`);
  assert.equal((await reloaded.load()).entries.length, 1);
  let answer;
  storage.broken.write = () => (storage.broken.write = undefined, new Promise((resolve) => (answer = resolve)));
  const second = insert(2);
  const storeError = () => db.status.get().error?.code === 'storage';
  await passing(assert.rejects(second.stored, { code: 'storage' }), storeError);
  assert.throws(() => insert(3), { code: 'storage' });
  assert.deepEqual(connection.heard, []);
  answer();
  await until(db.status, () => !storeError());
  assert.equal((await connection.next('mutate')).id, 2);
  storage.broken.write = fails;
  const third = insert(3);
  await assert.rejects(third.stored, { code: 'storage' });
  storage.broken.write = undefined;
  assert.equal((await connection.next('mutate')).id, 3);
  connection.say({ type: 'tx', cursor: '2', changes: [], ack: 3 });
  await Promise.all([second.confirmed, third.confirmed]);
});

test('a client whose storage has stopped to answer can be closed', async () => {
  const storage = lasting();
  const db = server.client({ storage });
  await (await server.accept()).welcome();
  await live(db);
  storage.broken.write = () => NEVER;
  db.mutate((tx) => tx.note.insert({ id: 1 }));
  let closed = false;
  await passing(db.close().then(() => (closed = true)), () => closed);
});

test('`connect: false`: nothing is asked for and nothing is opened before `connect`', async () => {
  const storage = lasting();
  let asked = 0;
  const options = { storage, token: () => (asked++, token('ann')), tables: { note: { key: ['id'] } }, connect: false };
  const never = server.client({ ...options, WebSocket: undefined });
  never.mutate((tx) => tx.note.insert({ id: 1 }));
  assert.equal(never.table('note').all().length, 1);
  await never.close();
  if (!globalThis.WebSocket) assert.throws(() => server.client({ ...options, WebSocket: undefined }).connect(), /pass a `WebSocket`/);
  const db = server.client(options);
  assert.equal(db.status.get().connection, 'offline');
  db.disconnect();
  const { stored } = db.mutate((tx) => tx.note.insert({ id: 1 }));
  await new Promise(setImmediate);
  assert.deepEqual([asked, storage.opened], [0, 0]);
  db.connect();
  db.connect();
  await stored;
  const connection = await server.accept();
  await connection.welcome();
  assert.equal((await connection.next('mutate')).id, 1);
  assert.equal(asked, 1);
});

test('the browser is asked, once, to keep what waits to be sent', async () => {
  let asked = 0;
  const requests = () => {
    const request = {};
    queueMicrotask(() => request.onsuccess?.());
    return request;
  };
  const store = new Proxy({}, { get: () => requests });
  const transaction = () => {
    const made = { objectStore: () => store };
    setImmediate(() => made.oncomplete?.());
    return made;
  };
  browser({ open: () => Object.assign(requests(), { result: { transaction, close: () => {} } }) });
  const opened = await indexedDBStorage().open('a copy');
  const entry = { id: 'a', ops: [], state: 'pending' };
  const batch = { rows: [], entries: [entry], gone: [] };
  // Workers and some browsers have no such thing.
  await opened.write({ ...batch, entries: [] });
  navigator.storage = { persist: async () => void (asked += 1) };
  await opened.write({ ...batch, entries: [] });
  assert.equal(asked, 0);
  await opened.write(batch);
  await opened.write(batch);
  assert.equal(asked, 1);
});

test('`forget` of a client that has not begun opens the copy of its user, and empties it', async () => {
  const storage = lasting();
  const options = { storage, token: () => token('ann'), tables: { note: { key: ['id'] } }, connect: false };
  const before = server.client(options);
  before.connect();
  const { stored } = before.mutate((tx) => tx.note.insert({ id: 1 }));
  await stored;
  await before.close();
  const db = server.client(options);
  await db.forget();
  assert.deepEqual([db.status.get().user, db.status.get().pending, db.table('note').all()], ['ann', 0, []]);
  await db.close();
  const after = server.client({ ...options, connect: true });
  await after.opened;
  assert.deepEqual([after.status.get().pending, after.table('note').all()], [0, []]);
});
