// Subscriptions as an application sees them. The server sends what the test says.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { memoryStorage } from '../src/index.js';
import { subscriptions } from '../src/subscriptions.js';
import { ScriptedServer, until } from './scripted.js';

let server;
beforeEach(async () => (server = await ScriptedServer.start()));
afterEach(() => server.stop());

const live = (db) => until(db.status, ({ connection }) => connection === 'live');
const put = (id, more) => ({ op: 'put', table: 'note', row: { id, ...more } });
const gone = (id) => ({ op: 'delete', table: 'note', row: { id } });
const ids = (db) => db.table('note').all().map(({ id }) => id).sort();
const is = (handle, status) => until(handle, (state) => state.status === status);
const clientOf = ({ ttl, ...options } = {}) => server.client({ subscriptions: subscriptions({ ttl }), ...options });

async function connected(options, welcome) {
  const db = clientOf(options);
  const connection = await server.accept();
  const connect = await connection.welcome(welcome);
  await live(db);
  return { db, connection, connect };
}

test('callers that ask for the same share one subscription, which is ready with its rows', async () => {
  const { db, connection } = await connected();
  const one = db.subscribe('channel', { channel: 1, open: true });
  const two = db.subscribe('channel', { open: true, channel: 1 });
  const { id, ...asked } = await connection.next('subscribe');
  assert.deepEqual(asked, { type: 'subscribe', query: 'channel', params: { channel: 1, open: true } });
  assert.deepEqual([one.status, two.get(), db.subscription('channel', { channel: 1, open: true })], ['loading', { status: 'loading' }, { status: 'loading' }]);
  const states = [];
  two.subscribe(({ status }) => states.push([status, ids(db)]));
  connection.say({ type: 'tx', cursor: '2', changes: [put(1)] });
  connection.say({ type: 'tx', cursor: '3', changes: [put(2)], subscribed: [id] });
  await Promise.all([one.ready, two.ready]);
  assert.deepEqual(states, [['ready', [1, 2]]]);
  assert.equal(db.subscription('channel', { channel: 1, open: true }).status, 'ready');
  // Another that asks for it later has it at once.
  const three = db.subscribe('channel', { channel: 1, open: true });
  assert.equal(three.status, 'ready');
  await three.ready;
  assert.equal(db.subscribe('channel', { channel: 2, open: true }).status, 'loading');
  assert.equal((await connection.next('subscribe')).params.channel, 2);
  assert.deepEqual(connection.heard, []);
});

test('it is kept for a while after its last use, and then given up', async () => {
  const { db, connection } = await connected({ ttl: 50 });
  const [one, two] = [db.subscribe('channel', { channel: 1 }), db.subscribe('channel', { channel: 1 })];
  const { id } = await connection.next('subscribe');
  connection.say({ type: 'tx', cursor: '2', changes: [put(1)], subscribed: [id] });
  await one.ready;
  one.unsubscribe();
  one.unsubscribe();
  two.unsubscribe();
  assert.deepEqual(await connection.next('unsubscribe'), { type: 'unsubscribe', id });
  // Whoever asks for it while it leaves has another.
  const again = db.subscribe('channel', { channel: 1 });
  const { id: other } = await connection.next('subscribe');
  assert.notEqual(other, id);
  connection.say({ type: 'tx', cursor: '3', changes: [gone(1)], unsubscribed: [id] });
  connection.say({ type: 'tx', cursor: '4', changes: [put(1)], subscribed: [other] });
  await again.ready;
  assert.deepEqual(ids(db), [1]);
});

test('a subscription that is used again in time is not given up', async () => {
  const { db, connection } = await connected({ ttl: 60_000 });
  const first = db.subscribe('channel');
  const { id } = await connection.next('subscribe');
  connection.say({ type: 'tx', cursor: '2', changes: [put(1)], subscribed: [id] });
  await first.ready;
  first.unsubscribe();
  const second = db.subscribe('channel');
  assert.equal(second.status, 'ready');
  db.subscribe('other');
  await connection.next('subscribe');
  assert.deepEqual(connection.heard, []);
});

test('a refused one says why, others go on, and the next connection is asked again', async () => {
  const { db, connection } = await connected();
  const [bad, good] = [db.subscribe('chanel'), db.subscribe('channel')];
  const [first, second] = [await connection.next('subscribe'), await connection.next('subscribe')];
  connection.say({ type: 'subscription_error', id: first.id, code: 'bad_request', message: 'there is no query `chanel`' });
  connection.say({ type: 'tx', cursor: '2', changes: [put(1)], subscribed: [second.id] });
  await assert.rejects(bad.ready, { name: 'RowtideError', code: 'bad_request', message: 'there is no query `chanel`' });
  await good.ready;
  assert.deepEqual([bad.status, bad.error.code, good.status, good.error], ['refused', 'bad_request', 'ready', undefined]);
  connection.socket.terminate();
  const next = await server.accept();
  const { subscriptions: named, cursor } = await next.welcome({ mode: 'resume', cursor: '3' });
  // Beside the cursor it names what it holds, and no more.
  assert.deepEqual([named, cursor], [[{ id: second.id, query: 'channel', params: {} }], '2']);
  const { id } = await next.next('subscribe');
  next.say({ type: 'tx', cursor: '4', changes: [put(2)], subscribed: [id] });
  await is(bad, 'ready');
  assert.equal(bad.error, undefined);
});

test('the first connection names what is wanted, and its snapshot has the rows', async () => {
  const db = clientOf();
  const [good, bad] = [db.subscribe('channel', { channel: 1 }), db.subscribe('chanel')];
  const connection = await server.accept();
  const connect = await connection.next('connect');
  assert.deepEqual(connect.subscriptions.map(({ query, params }) => [query, params]), [['channel', { channel: 1 }], ['chanel', {}]]);
  connection.say({ type: 'connected', protocol: 1, userId: 'ann', mode: 'snapshot', lastMutation: 0, refused: [], tables: { note: { key: ['id'] } }, features: ['subscriptions'] });
  connection.say({ type: 'subscription_error', id: connect.subscriptions[1].id, code: 'bad_request', message: 'no' });
  connection.say({ type: 'snapshot', table: 'note', rows: [{ id: 1 }] });
  await assert.rejects(bad.ready, { code: 'bad_request' });
  assert.equal(good.status, 'loading');
  connection.say({ type: 'ready', cursor: '1' });
  await good.ready;
  assert.deepEqual(ids(db), [1]);
});

test('after a reload the rows are there at once, and `connect` names exactly those that are stored', async () => {
  const storage = memoryStorage();
  const { db: before, connection } = await connected({ storage });
  const [one, two] = [before.subscribe('channel', { channel: 1 }), before.subscribe('channel', { channel: 2 })];
  const { id } = await connection.next('subscribe');
  await connection.next('subscribe');
  connection.say({ type: 'tx', cursor: '2', changes: [put(1)], subscribed: [id] });
  await one.ready;
  assert.equal(two.status, 'loading');
  await before.close();

  const db = clientOf({ storage, ttl: 50 });
  const used = db.subscribe('channel', { channel: 2 });
  await db.opened;
  const kept = db.subscribe('channel', { channel: 1 });
  assert.deepEqual([kept.status, used.status, ids(db)], ['ready', 'loading', [1]]);
  kept.unsubscribe();
  const back = await server.accept();
  const connect = await back.welcome({ mode: 'resume', cursor: '2' });
  assert.deepEqual([connect.cursor, connect.subscriptions], ['2', [{ id, query: 'channel', params: { channel: 1 } }]]);
  const asked = await back.next('subscribe');
  assert.notEqual(asked.id, id);
  assert.deepEqual(asked.params, { channel: 2 });
  // Nobody uses it any more.
  assert.equal((await back.next('unsubscribe')).id, id);
});

test('a copy with rows of subscriptions is none for a client that does not know them', async () => {
  const storage = memoryStorage();
  const { db: before, connection } = await connected({ storage });
  const one = before.subscribe('channel');
  const { id } = await connection.next('subscribe');
  connection.say({ type: 'tx', cursor: '2', changes: [put(1)], subscribed: [id] });
  await one.ready;
  await before.close();
  const db = server.client({ storage });
  await db.opened;
  assert.deepEqual(ids(db), [1]);
  let next = await server.accept();
  const connect = await next.welcome({ rows: [], cursor: '3' });
  assert.deepEqual([connect.cursor, connect.subscriptions], [undefined, undefined]);
  await live(db);
  assert.deepEqual(ids(db), []);
  await db.close();
  clientOf({ storage });
  next = await server.accept();
  const { cursor, subscriptions: named } = await next.next('connect');
  assert.deepEqual([cursor, named], ['3', undefined]);
});

test('more than a first message can say is asked for behind it', async () => {
  const db = clientOf();
  const long = 'ä'.repeat(9_000);
  db.subscribe('search', { text: long });
  const connection = await server.accept();
  const connect = await connection.welcome();
  assert.equal(connect.subscriptions, undefined);
  assert.equal((await connection.next('subscribe')).params.text, long);
});

test('a server that does not know subscriptions is asked for none, and each says so', async () => {
  const { db, connection } = await connected({}, { features: [] });
  const handle = db.subscribe('channel');
  await assert.rejects(handle.ready, { code: 'unsupported' });
  assert.deepEqual([handle.status, connection.heard], ['refused', []]);
  assert.deepEqual(handle.error, { code: 'unsupported', message: 'the server has no subscriptions' });
});

test('a client that was created without subscriptions says what is missing', async () => {
  const db = server.client();
  assert.throws(() => db.subscribe('channel'), /@rowtide\/client\/subscriptions/);
});

test('another user has the same wishes, and none of the rows', async () => {
  let user = 'ann';
  const { token } = await import('./scripted.js');
  const { db, connection } = await connected({ token: () => token(user) });
  const handle = db.subscribe('channel');
  const { id } = await connection.next('subscribe');
  connection.say({ type: 'tx', cursor: '2', changes: [put(1)], subscribed: [id] });
  await handle.ready;
  user = 'bob';
  connection.end(1012, 'restarting', { retryAfterMs: 1 });
  await is(handle, 'loading');
  assert.deepEqual(ids(db), []);
  const next = await server.accept();
  const connect = await next.welcome({ user, rows: [{ id: 2 }] });
  assert.deepEqual([connect.cursor, connect.subscriptions.map(({ query }) => query)], [undefined, ['channel']]);
  await is(handle, 'ready');
  assert.deepEqual(ids(db), [2]);
});

test('a row with a key that the server makes comes with what a subscription brings', async () => {
  const { db, connection } = await connected();
  const handle = db.subscribe('channel', { channel: 1 });
  const { id } = await connection.next('subscribe');
  let made;
  const { confirmed } = db.mutate((tx) => (made = tx.note.insert({ channel: 1 })) && undefined);
  await connection.next('mutate');
  const steps = [];
  db.subscribe((changes) => steps.push(changes.length));
  const keys = [{ id: 1, op: 0, key: { id: 4711 } }];
  connection.say({ type: 'tx', cursor: '2', changes: [put(4711, { channel: 1 }), put(5)], ack: 1, keys, subscribed: [id] });
  await Promise.all([handle.ready, confirmed]);
  assert.deepEqual(ids(db), [4711, 5].sort());
  assert.equal(db.table('note').get(made.id).id, 4711);
  assert.deepEqual(steps, [3]);
});
