/**
 * A server in memory for the tests of an application: it speaks the protocol to the client, and has the rules of
 * reading and writing as functions. Everything happens in microtasks, so a test waits with `settled` and needs no
 * timers, no port and no database.
 */
import { createClient } from '../client.js';
import { RowtideError } from '../error.js';
import { memoryStorage } from '../storage.js';
import { subscriptions } from '../subscriptions.js';
import { Database, reader } from './database.js';
import { Judge } from './judge.js';
import { Selecting } from './selecting.js';
import { ENDINGS, Session } from './session.js';
import { Wire, socketClass } from './socket.js';

/** How many microtasks must pass in which nothing is delivered. What a client does between two messages takes fewer. */
const QUIET = 1000;
/** How many cursors and rejections are kept, and how many of the mutations that made keys. */
const MAX_CURSORS = 1000;
const MAX_TOLD = 100;

/**
 * @typedef {import('./database.js').Auth} Auth
 * @typedef {import('./database.js').Db} Db
 * @typedef {import('./selecting.js').Held} Held
 * @typedef {{ tables: Record<string, import('./database.js').TableRules>, queries?: Record<string, import('./selecting.js').Query>,
 *   mutations?: Record<string, import('./judge.js').Call>, anonymous?: boolean }} Definition
 * @typedef {{ userId: string | null, last: number, rejections: { id: number, code: string, message: string }[],
 *   keys: import('./judge.js').MadeKey[] }} KnownClient what outlives the connections of a client
 */

/** @param {Definition} definition */
export function testServer(definition) {
  return new TestServer(definition);
}

export class TestServer {
  url = 'ws://rowtide.test/sync';
  #wire = new Wire();
  #database;
  #judge;
  /** @type {Set<Session>} */
  #sessions = new Set();
  /** @type {Map<string, KnownClient>} */
  #known = new Map();
  /** @type {Map<string, { of: string, held: Held }>} */
  #cursors = new Map();
  #made = 0;
  #isOnline = true;
  /** What the next mutations are rejected with. @type {{ code: string, message: string }[]} */
  #rejections = [];
  /** What a function of the definition has thrown by mistake. @type {unknown[]} */
  #mistakes = [];
  /** @type {import('../client.js').Client[]} */
  #clients = [];

  /** @param {Definition} definition */
  constructor(definition) {
    const { tables, queries = {}, mutations = {}, anonymous = false } = definition;
    this.definition = definition;
    this.anonymous = anonymous;
    this.#database = new Database(tables);
    this.#judge = new Judge(tables, mutations);
    this.selecting = new Selecting(tables, queries);
    const visible = Object.entries(tables).filter(([, { visible }]) => visible);
    /** The tables whose rows may come, with their keys. */
    this.tables = Object.fromEntries(visible.map(([name, { key }]) => [name, { key: [...key] }]));
    /** To give to `createClient`. */
    this.WebSocket = socketClass(this.#wire, (end) => {
      if (!this.#isOnline) return undefined;
      const session = new Session(this, end);
      this.#sessions.add(session);
      return { hear: (text) => this.#sessions.has(session) && session.hear(text), gone: () => session.gone() };
    });
  }

  /**
   * A token of a user that this server takes.
   * @param {string} user
   * @param {Record<string, any>} [claims]
   */
  token(user, claims = {}) {
    const part = (/** @type {object} */ value) => {
      const bytes = new TextEncoder().encode(JSON.stringify(value));
      return btoa(String.fromCharCode(...bytes)).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
    };
    // So far away that no client renews it during a test.
    return `${part({ alg: 'none', typ: 'JWT' })}.${part({ ...claims, sub: user, exp: 4e9 })}.`;
  }

  /**
   * A client of a user, with its own copy in memory, that ends with this server.
   * @param {string | null} user
   * @param {any} [options] of `createClient`
   */
  client(user, options) {
    const client = createClient({
      url: this.url,
      WebSocket: this.WebSocket,
      token: () => (user === null ? null : this.token(user)),
      storage: memoryStorage(),
      tables: this.tables,
      subscriptions: subscriptions(),
      ...options,
    });
    this.#clients.push(client);
    return client;
  }

  /** The rows of a table. @param {string} table @param {any} [where] */
  rows(table, where) {
    return this.#db.rows(table, where);
  }

  /** A row of a table. @param {string} table @param {any} key */
  row(table, key) {
    return this.#db.row(table, key);
  }

  get #db() {
    return reader(this.#database.tables, () => this.#database.state);
  }

  /**
   * Writes as the owner of the database, whom no rule binds. All of it is one commit.
   * @template T
   * @param {(tx: any, db: Db) => T} write
   * @returns {T}
   */
  write(write) {
    const tx = this.#database.begin();
    const result = write(tx.owner, tx.db);
    tx.commit();
    for (const session of this.#sessions) if (session.auth) session.step();
    return result;
  }

  /** The network goes: connections end, and none can be made. */
  offline() {
    this.#isOnline = false;
    for (const session of [...this.#sessions]) session.cut(1006);
  }

  /** The network is there again. Clients of `client` connect at once, and in a browser (or jsdom) all others, too. */
  online() {
    this.#isOnline = true;
    // Those that the test has disconnected stay so.
    for (const client of this.#clients) if (client.status.get().error) client.connect();
    if (typeof globalThis.dispatchEvent === 'function') globalThis.dispatchEvent(new Event('online'));
  }

  /**
   * Ends all connections with a code of the protocol, such as `client_too_old`.
   * @param {string} code
   * @param {string} [message]
   */
  end(code, message = 'the test says so') {
    if (!ENDINGS[code]) throw new TypeError(`\`${code}\` is no ending: ${Object.keys(ENDINGS).join(', ')}`);
    for (const session of [...this.#sessions]) session.end(code, message);
  }

  /**
   * Rejects the next mutation that arrives, whatever the rules say.
   * @param {string} code
   * @param {string} [message]
   */
  rejectNext(code, message = 'the test says so') {
    this.#rejections.push({ code, message });
  }

  /**
   * Resolves when everything is delivered, in both directions, and nothing comes of it any more.
   * @throws what a function of the definition has thrown by mistake
   */
  async settled() {
    let { delivered } = this.#wire;
    for (let quiet = 0; quiet < QUIET; quiet++) {
      await undefined;
      if (delivered !== this.#wire.delivered) quiet = 0;
      ({ delivered } = this.#wire);
    }
    const [mistake] = this.#mistakes.splice(0);
    if (mistake) throw mistake;
  }

  /** Ends the clients of `client`, and all connections. */
  async close() {
    await Promise.all(this.#clients.splice(0).map((client) => client.close()));
    this.offline();
  }

  /** Keeps what a function of the definition has thrown by mistake for the test. @param {unknown} error */
  mistaken(error) {
    this.#mistakes.push(error);
  }

  /** A session has ended. @param {Session} session */
  left(session) {
    this.#sessions.delete(session);
  }

  /**
   * The client that a session is of. Its older connections end.
   * @param {Session} session
   * @param {string} clientId
   * @param {Auth} auth
   * @param {number} acked the highest number that it was told of
   * @returns {KnownClient}
   */
  clientOf(session, clientId, { userId }, acked) {
    if (userId === null) return { userId, last: acked, rejections: [], keys: [] };
    const known = this.#known.get(clientId) ?? { userId, last: 0, rejections: [], keys: [] };
    if (known.userId !== userId) throw session.refuse('forbidden', 'this `clientId` belongs to another user');
    known.last = Math.max(known.last, acked);
    this.#known.set(clientId, known);
    for (const other of [...this.#sessions]) {
      if (other !== session && other.clientId === clientId) other.end('superseded', 'a newer connection of this client is there');
    }
    return known;
  }

  /**
   * The rows that a session should hold; nothing if a rule failed.
   * @param {Auth} auth
   * @param {Iterable<import('./selecting.js').Wish>} wishes
   */
  held(auth, wishes) {
    try {
      return this.selecting.held(this.#db, auth, wishes);
    } catch (error) {
      this.mistaken(error);
      return undefined;
    }
  }

  /** @param {Auth} auth @param {Held} held */
  cursorOf(auth, held) {
    const cursor = `test-${++this.#made}`;
    this.#cursors.set(cursor, { of: JSON.stringify(auth), held });
    const [oldest] = this.#cursors.keys();
    if (this.#cursors.size > MAX_CURSORS) this.#cursors.delete(oldest);
    return cursor;
  }

  /** What a client with a cursor holds. @param {string | undefined} cursor @param {Auth} auth */
  heldAt(cursor, auth) {
    const known = this.#cursors.get(cursor ?? '');
    return known?.of === JSON.stringify(auth) ? known.held : undefined;
  }

  /**
   * @param {Session} session
   * @param {Auth} auth
   * @param {any} mutation
   */
  mutate(session, auth, mutation) {
    const { id } = mutation;
    if (!Number.isInteger(id) || id < 1) throw session.refuse('bad_request', 'a mutation has an `id`');
    const known = this.#known.get(session.clientId);
    if (!known || auth.userId === null) {
      session.reject({ id, code: 'forbidden', message: 'nobody is signed in' });
      return session.step({ ack: id });
    }
    if (id > known.last + 1) throw session.refuse('bad_request', `mutation ${known.last + 1} comes before ${id}`);
    const since = (/** @type {{ id: number }} */ of) => of.id >= id;
    if (id <= known.last) {
      known.rejections.filter(since).forEach((rejection) => session.reject(rejection));
      return session.step({ ack: known.last, ...told(known.keys.filter(since)) });
    }
    known.last = id;
    const tx = this.#database.begin();
    try {
      const forced = this.#rejections.shift();
      if (forced) throw new RowtideError(forced.code, forced.message);
      known.keys.push(...this.#judge.apply(tx, auth, mutation, (...key) => madeBefore(known, ...key)));
      tx.commit();
    } catch (error) {
      const { code, message, cause } = /** @type {RowtideError} */ (error);
      if (cause) this.mistaken(cause);
      const rejection = { id, code, message };
      known.rejections = [...known.rejections, rejection].slice(-MAX_TOLD);
      session.reject(rejection);
      return session.step({ ack: id });
    }
    for (const other of this.#sessions) {
      if (other === session) other.step({ ack: id, ...told(known.keys.filter(since)) });
      else if (other.auth) other.step();
    }
    return undefined;
  }
}

/** @param {object[]} keys */
const told = (keys) => (keys.length ? { keys } : {});

/**
 * The value of a key that an earlier mutation made.
 * @param {KnownClient} known
 * @param {number} id
 * @param {number} op
 * @param {string} column
 */
function madeBefore({ keys, rejections }, id, op, column) {
  const name = JSON.stringify({ $key: [id, op, column] });
  if (rejections.some((rejection) => rejection.id === id)) throw new RowtideError('bad_request', `${name}: mutation ${id} was rejected`);
  const value = keys.find((key) => key.id === id && key.op === op)?.key[column];
  if (value === undefined) throw new RowtideError('bad_request', `${name}: no key is known that mutation ${id} made`);
  return value;
}
