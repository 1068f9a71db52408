// Nothing is lost: edits made offline, in several tabs and over reloads, meet a server that limits their rate, restarts, finds
// the token expired and gets another column. All arrive once and in order, and each rejection is told of once.
// ROWTIDE_EDITS=n makes that many.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import WebSocket, { WebSocketServer } from 'ws';
import { createClient, memoryStorage } from '../src/index.js';
import { random } from './random.js';
import { soon, token, until } from './scripted.js';

const EDITS = Number(process.env.ROWTIDE_EDITS ?? 2000);
const PHASES = 5;
/** How long each part may take, in ms, also on a machine that is busy. */
const PATIENCE = 60_000 + EDITS * 60;

/** The locks of a browser. */
class Locks {
  #waiting = new Map();

  request(name, { signal }, work) {
    const before = this.#waiting.get(name) ?? Promise.resolve();
    const aborted = new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('aborted'))));
    aborted.catch(() => {});
    let mine = Promise.resolve();
    const held = before.then(() => {
      if (!signal.aborted) mine = work();
      return mine;
    });
    this.#waiting.set(name, held.catch(() => {}));
    return Promise.race([held, aborted.then(() => held)]);
  }
}

/** A server that judges mutations as the protocol says, and has a bad day. */
class Server {
  open = true;
  columns = ['id', 'text'];
  rows = new Map();
  /** The highest number of each client. */
  last = new Map();
  rejections = new Map();
  /** What was applied, in order. */
  applied = [];
  endings = new Set();
  tokens = new Set();
  #cursor = 0;
  #since = 0;

  constructor(seed) {
    this.rng = random(seed);
  }

  async start() {
    this.server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => 'rowtide.v1' });
    this.server.on('connection', (socket) => {
      if (!this.open) return socket.terminate();
      const session = { socket, client: undefined };
      socket.on('message', (data) => socket.readyState === 1 && this.#heard(session, JSON.parse(String(data))));
    });
    await once(this.server, 'listening');
    this.url = `ws://127.0.0.1:${this.server.address().port}/sync`;
  }

  #say(session, message) {
    session.socket.send(JSON.stringify(message));
  }

  #end(session, closeCode, code) {
    this.endings.add(code);
    this.#say(session, { type: 'error', code, message: 'because', retryAfterMs: 1 });
    session.socket.close(closeCode);
  }

  #heard(session, message) {
    if (message.type === 'connect') return this.#connect(session, message);
    if (message.type !== 'mutate') return undefined;
    this.#judge(session, message);
    this.#since += 1;
    if (this.#since < 150) return undefined;
    this.#since = 0;
    const ending = this.rng.below(4);
    if (ending === 0) return this.#end(session, 4429, 'rate_limit_exceeded');
    if (ending === 1) return this.#end(session, 1012, 'restarting');
    if (ending === 2) {
      this.tokens.add(session.token);
      return this.#end(session, 4401, 'unauthorized');
    }
    // A column is added, so everyone gets a snapshot; and the connection breaks without a word.
    this.columns = [...this.columns, `c${this.columns.length}`];
    this.endings.add('altered');
    return session.socket.terminate();
  }

  #row(id) {
    return Object.fromEntries(this.columns.map((column) => [column, column === 'id' ? id : column === 'text' ? this.rows.get(id) : null]));
  }

  #connect(session, { clientId, cursor, settled = 0, token }) {
    session.token = token;
    // The token that was too old once is so for good.
    if (this.tokens.has(token)) return this.#end(session, 4401, 'unauthorized');
    session.client = clientId;
    const last = this.last.get(clientId) ?? 0;
    const refused = (this.rejections.get(clientId) ?? []).filter(({ id }) => id > settled);
    const mode = cursor?.startsWith(`${this.columns.length} `) ? 'resume' : 'snapshot';
    this.#say(session, { type: 'connected', protocol: 1, userId: 'ann', mode, lastMutation: last, refused, tables: { note: { key: ['id'] } }, features: [] });
    const rows = [...this.rows.keys()].map((id) => this.#row(id));
    if (mode === 'snapshot') this.#say(session, { type: 'snapshot', table: 'note', rows });
    // All that was written: what a client has already does no harm.
    else this.#say(session, { type: 'tx', cursor: this.#next(), changes: rows.map((row) => ({ op: 'put', table: 'note', row })) });
    this.#say(session, { type: 'ready', cursor: this.#next() });
  }

  #next() {
    this.#cursor += 1;
    return `${this.columns.length} ${this.#cursor}`;
  }

  #judge(session, { id, ops: [{ row }] }) {
    const last = this.last.get(session.client) ?? 0;
    if (id <= last) return;
    assert.equal(id, last + 1, 'a gap');
    this.last.set(session.client, id);
    if (row.id % 97 === 0) {
      const rejection = { id, code: 'forbidden', message: 'a rule' };
      this.rejections.set(session.client, [...(this.rejections.get(session.client) ?? []), rejection]);
      this.#say(session, { type: 'reject', ...rejection });
      this.#say(session, { type: 'tx', cursor: this.#next(), changes: [], ack: id });
      return;
    }
    assert.ok(!this.rows.has(row.id), 'applied twice');
    this.rows.set(row.id, row.text);
    this.applied.push(row);
    this.#say(session, { type: 'tx', cursor: this.#next(), changes: [{ op: 'put', table: 'note', row: this.#row(row.id) }], ack: id });
  }
}

test(`${EDITS} edits made offline, in tabs and over reloads, arrive once and in order, and each rejection is told once`, async () => {
  const navigator = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
  Object.defineProperty(globalThis, 'navigator', { value: { locks: new Locks() }, configurable: true });
  const server = new Server(Number(process.env.ROWTIDE_SEED ?? 1));
  await server.start();
  const memory = memoryStorage();
  const open = async (name) => {
    const store = await memory.open(name);
    const load = async () => {
      const { entries, ...rest } = await store.load();
      // As IndexedDB reads them: in the order of their ids.
      return { ...rest, entries: entries.sort((a, b) => (a.id < b.id ? -1 : 1)) };
    };
    return { ...store, load };
  };
  const storage = { shared: true, open };
  let tokens = 0;
  const tab = async () => {
    const told = new Map();
    const db = createClient({ url: server.url, WebSocket, storage, tables: { note: { key: ['id'] } }, token: () => token('ann', 4e9 + tokens++) });
    db.onAcked(({ id, code }) => told.set(id, [...(told.get(id) ?? []), code]));
    await db.opened;
    return { db, told };
  };
  server.open = false;
  /** The edit of each mutation. */
  const edits = new Map();
  let made = 0;
  let tabs;
  for (let phase = 0; phase < PHASES; phase++) {
    // A reload.
    await Promise.all((tabs ?? []).map(({ db }) => db.close()));
    tabs = [await tab(), await tab()];
    const stored = [];
    for (; made < ((phase + 1) * EDITS) / PHASES; made++) {
      const by = made % 2;
      const { id, stored: isStored } = tabs[by].db.mutate((tx) => tx.note.insert({ id: made, text: `${phase} ${by}` }));
      edits.set(id, made);
      stored.push(isStored);
    }
    await soon(Promise.all(stored), 'that all are stored', PATIENCE);
  }
  await Promise.all(tabs.map(({ db }) => until(db.status, ({ pending }) => pending === EDITS, 'that all are pending', PATIENCE)));
  server.open = true;
  for (const { db } of tabs) db.connect();
  await Promise.all(tabs.map(({ db }) => until(db.status, ({ pending }) => pending === 0, 'that all are acknowledged', PATIENCE)));

  const isRejected = (edit) => edit % 97 === 0;
  assert.deepEqual(server.applied.map(({ id }) => id).sort((a, b) => a - b), [...edits.values()].filter((edit) => !isRejected(edit)));
  const last = new Map();
  let reached = 0;
  for (const { id, text } of server.applied) {
    // What a tab has made comes in its order, and what was made before a reload comes before what was made after it.
    assert.ok(id > (last.get(text) ?? -1), `${id} after ${last.get(text)}`);
    last.set(text, id);
    const phase = Number(text[0]);
    assert.ok(phase >= reached, `${text} after phase ${reached}`);
    reached = phase;
  }
  for (const { db, told } of tabs) {
    assert.deepEqual([...told.keys()].sort(), [...edits.keys()].sort());
    for (const [id, codes] of told) assert.deepEqual(codes, [isRejected(edits.get(id)) ? 'forbidden' : undefined]);
    assert.deepEqual(new Map(db.table('note').all().map(({ id, text }) => [id, text])), server.rows);
  }
  if (EDITS >= 2000) assert.deepEqual([...server.endings].sort(), ['altered', 'rate_limit_exceeded', 'restarting', 'unauthorized']);
  await Promise.all(tabs.map(({ db }) => db.close()));
  for (const socket of server.server.clients) socket.terminate();
  server.server.close();
  if (navigator) Object.defineProperty(globalThis, 'navigator', navigator);
  else delete globalThis.navigator;
});
