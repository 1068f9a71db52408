/**
 * The client that an application uses: tables to read, `mutate` to write, and `status`. The client knows
 * which user is signed in, and shows only that user's copy.
 */
import { wait } from './connection.js';
import { RowtideError } from './error.js';
import { temporary } from './op.js';
import { Optimistic } from './optimistic.js';
import { Observed, Shown, TableQuery, keyRow, subscribed } from './query.js';
import { indexedDBStorage, memoryStorage } from './storage.js';
import { Tab, randomId } from './tab.js';
import { claims } from './token.js';

/**
 * @typedef {import('./op.js').Op} Op
 * @typedef {import('./optimistic.js').Step} Step
 * @typedef {import('./optimistic.js').Acked} Acked
 * @typedef {{ connection: import('./connection.js').ConnectionState, pending: number, user?: string,
 *   error?: { code: string, message: string }, leads: boolean }} Status
 *
 * @typedef {object} Options
 * @property {string} url
 * @property {(why: { rejected: boolean, refused: boolean }) => string | null | Promise<string | null>} token
 *   `null`: nobody is signed in; `refused` is the deprecated name of `rejected`
 * @property {Record<string, { key: readonly string[], defaults?: Record<string, any> }>} [tables]
 * @property {import('./storage.js').Storage} [storage]
 * @property {string} [user]
 * @property {number} [appVersion]
 * @property {any} [WebSocket]
 * @property {boolean} [connect]
 * @property {(bell: import('./query.js').Bell) => import('./subscribing.js').Subscriptions} [subscriptions]
 * @property {(direction: 'sent' | 'received', message: any) => void} [trace]
 */

/** Whether tabs can share a copy. Browsers can in pages that came over HTTPS or from localhost. */
const canShare = () =>
  typeof indexedDB === 'object' && typeof BroadcastChannel === 'function' && !!globalThis.navigator?.locks;

/** @param {Options} options */
export function createClient(options) {
  return new Client(options);
}

export class Client {
  #options;
  #optimistic;
  #shown;
  /** @type {Tab | undefined} */
  #tab;
  #storage;
  /** @type {Map<string, TableQuery>} */
  #tables = new Map();
  /** Tables of which it was said that the server does not have them. @type {Set<string>} */
  #told = new Set();
  /** The promises of mutations without an acknowledgement, by id. @type {Map<string, { resolve: () => void, reject: (error: Error) => void }>} */
  #unconfirmed = new Map();
  /** @type {Set<(acked: Acked) => void>} */
  #onAcked = new Set();
  #stopped = false;
  #connected;
  /** The token that told who the user is. The first connection uses it. @type {string | null | undefined} */
  #token;
  #unlisten = () => {};
  #subscriptions;

  /** @param {Options} options */
  constructor(options) {
    const WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!WebSocket) throw new TypeError('there is no WebSocket here: pass one as `WebSocket`');
    if (!/^wss?:/.test(options.url)) throw new TypeError(`\`url\` is not ws://host:port/sync: ${options.url}`);
    this.#options = { ...options, WebSocket };
    this.#connected = options.connect ?? true;
    this.#storage = options.storage ?? (canShare() ? indexedDBStorage() : memoryStorage());
    this.#optimistic = new Optimistic(options.tables);
    this.#shown = new Shown(this.#optimistic);
    this.#subscriptions = options.subscriptions?.(this.#shown.bell);
    /** @type {Status} */
    const status = { connection: 'connecting', pending: 0, leads: false };
    this.status = new Observed(this.#shown.bell, status);
    /** Resolves when the stored copy is shown. */
    this.opened = this.#open();
    this.opened.catch(() => {});
    const nudge = () => this.#tab?.nudge();
    if (typeof globalThis.addEventListener === 'function') {
      globalThis.addEventListener('online', nudge);
      globalThis.document?.addEventListener('visibilitychange', nudge);
      this.#unlisten = () => {
        globalThis.removeEventListener('online', nudge);
        globalThis.document?.removeEventListener('visibilitychange', nudge);
      };
    }
  }

  /**
   * @param {string} name
   * @returns {TableQuery}
   * @throws {TypeError} for a name that is not among the given tables, nor among those of the server
   */
  table(name) {
    let table = this.#tables.get(name);
    if (!table) {
      const { tables } = this.#options;
      if (tables && !(name in tables) && !this.#optimistic.tables.has(name)) throw new TypeError(`there is no table \`${name}\``);
      this.#tables.set(name, (table = new TableQuery(this.#shown, name)));
      this.#missed();
    }
    return table;
  }

  /** Says once of each table that is read that the server does not have it. */
  #missed() {
    if (this.status.get().connection !== 'live') return;
    for (const name of this.#tables.keys()) {
      if (this.#told.has(name) || this.#optimistic.tables.has(name)) continue;
      this.#told.add(name);
      console.warn(`there is no table \`${name}\``);
    }
  }

  /** The names of the known tables. */
  tables() {
    return [...this.#optimistic.tables.keys()];
  }

  /**
   * @param {any} what a listener, which is called once for each step, or the name of a query
   * @param {Record<string, any>} [params] of the query
   * @returns {any} what ends the calls, or a handle
   */
  subscribe(what, params) {
    return typeof what === 'function' ? this.#shown.subscribe(what) : this.#selecting.subscribe(what, params);
  }

  /**
   * @param {string} query
   * @param {Record<string, any>} [params]
   */
  subscription(query, params) {
    return this.#selecting.state(query, params);
  }

  get #selecting() {
    if (!this.#subscriptions) throw new TypeError('give `createClient` the `subscriptions` of @rowtide/client/subscriptions');
    return this.#subscriptions;
  }

  /**
   * @param {(acked: Acked) => void} listener called for each acknowledgement, also of mutations that were
   *   made before a reload
   */
  onAcked(listener) {
    return subscribed(this.#onAcked, listener);
  }

  /** The deprecated name of `onAcked`. @param {(acked: Acked) => void} listener */
  onSettled(listener) {
    return this.onAcked(listener);
  }

  /** The mutations without an acknowledgement, in order. */
  pending() {
    return this.#optimistic.pending().map(({ id, ops }) => ({ id, ops }));
  }

  /**
   * @param {(tx: any, call: (name: string, args?: Record<string, any>) => void) => void} write
   * @returns {{ id: string, confirmed: Promise<void> }}
   */
  mutate(write) {
    if (this.#stopped) throw new RowtideError('stopped', 'the client has stopped');
    const { error } = this.status.get();
    if (error?.code === 'storage') throw new RowtideError('storage', error.message);
    /** @type {Op[]} */
    const ops = [];
    const call = (/** @type {string} */ name, /** @type {Record<string, any>} */ args = {}) => {
      ops.push({ op: 'call', name, args: JSON.parse(JSON.stringify(args)) });
    };
    const id = randomId();
    const done = /** @type {any} */ (write(this.#writer(id, ops), call));
    if (typeof done?.then === 'function') throw new TypeError('`mutate` takes no async function');
    const step = this.#optimistic.mutate(id, ops);
    const confirmed = new Promise((resolve, reject) => {
      this.#unconfirmed.set(id, { resolve: () => resolve(undefined), reject });
    });
    // A rejection that nobody handles is not an error of the page.
    confirmed.catch(() => {});
    if (this.#tab) {
      const entry = this.#optimistic.queue[this.#optimistic.queue.length - 1];
      this.#tab.made(entry, step);
    } else this.#step(step);
    return { id, confirmed: /** @type {Promise<void>} */ (confirmed) };
  }

  /**
   * @param {string} id of the mutation
   * @param {Op[]} ops
   */
  #writer(id, ops) {
    const add = (/** @type {import('./op.js').RowOp['op']} */ op, /** @type {string} */ table, /** @type {any} */ row) => {
      // A copy in the form that is sent: the caller may change its object later.
      ops.push({ op, table, row: JSON.parse(JSON.stringify(row)) });
    };
    return new Proxy({}, {
      get: (_, name) => {
        const table = String(name);
        return {
          insert: (/** @type {any} */ row) => {
            const keyed = { ...row };
            // The server makes what is missing of the key, or rejects the insert.
            for (const column of this.#optimistic.tables.get(table)?.key ?? []) {
              keyed[column] ??= temporary(id, ops.length, column);
            }
            add('insert', table, keyed);
            return keyed;
          },
          update: (/** @type {any} */ row) => add('update', table, row),
          delete: (/** @type {any} */ key) => {
            const known = this.#optimistic.tables.get(table);
            if (!known && (typeof key !== 'object' || !key)) {
              throw new RowtideError('bad_request', `the key of table \`${table}\` is not known yet: name its columns`);
            }
            add('delete', table, known ? keyRow(known.key, key) : key);
          },
        };
      },
    });
  }

  /** Connects after `disconnect`, or ends the wait before the next try. */
  connect() {
    this.#connected = true;
    this.#tab?.connect(true);
  }

  /** Goes offline until `connect`. */
  disconnect() {
    this.#connected = false;
    this.#tab?.connect(false);
  }

  /** Ends the client. Pending mutations stay in the storage. */
  async close() {
    this.#stop();
    await this.#tab?.close();
  }

  /** Ends the client and deletes the user's rows and pending mutations, in every tab. */
  async signOut() {
    await this.opened.catch(() => {});
    this.#stop({ code: 'signed_out', message: 'the user has signed out' });
    this.#showNothing();
    await this.#tab?.clear();
    await this.#remember(undefined);
  }

  /** @param {{ code: string, message: string }} [error] */
  #stop(error) {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#unlisten();
    this.status.set({ ...this.status.get(), connection: 'stopped', error });
  }

  /** Shows no rows any more, and ends the mutations that wait. */
  #showNothing() {
    this.#step(this.#optimistic.restore({ meta: {}, rows: [], entries: [] }, () => false));
    this.#subscriptions?.clear();
    for (const { reject } of this.#unconfirmed.values()) {
      reject(new RowtideError('signed_out', 'the user has signed out'));
    }
    this.#unconfirmed.clear();
  }

  async #open() {
    const user = this.#options.user ?? (await this.#findUser());
    if (!this.#stopped) await this.#show(user);
  }

  /** Asks `token` for a new token. @param {boolean} rejected whether the last one is of no use */
  #newToken(rejected) {
    return this.#options.token({ rejected, refused: rejected });
  }

  /** The user that the token names (nobody is the empty one), or, if no token can be had, the last user of this browser. */
  async #findUser() {
    for (let failures = 0; ; failures++) {
      try {
        this.#token = await this.#newToken(false);
        return claims(this.#token).sub;
      } catch (error) {
        const last = await this.#lastUser();
        if (last !== undefined) return last;
        this.status.set({ ...this.status.get(), connection: 'offline', error: { code: 'token', message: `${error}` } });
        await new Promise((resolve) => setTimeout(resolve, wait(failures)));
        if (this.#stopped) return '';
      }
    }
  }

  /**
   * @param {string} user
   * @returns {Promise<void>}
   */
  async #show(user) {
    const { url, WebSocket, appVersion, trace } = this.#options;
    const name = `rowtide ${url} ${user}`;
    const store = await this.#storage.open(name);
    await this.#remember(user);
    if (this.#stopped) return store.close();
    const tab = new Tab({
      name,
      user,
      store,
      shared: this.#storage.shared,
      connected: this.#connected,
      optimistic: this.#optimistic,
      subscriptions: this.#subscriptions,
      connection: {
        url,
        WebSocket,
        appVersion,
        trace,
        token: (rejected) => {
          const first = rejected ? undefined : this.#token;
          this.#token = undefined;
          return first ?? this.#newToken(rejected);
        },
      },
      onStep: (step) => this.#step(step),
      onStatus: (status) => this.#setConnection(status),
      onOtherUser: (other) => this.#switch(other),
      onSignOut: () => {
        this.#stop({ code: 'signed_out', message: 'the user has signed out' });
        this.#showNothing();
        if (!tab.closed) tab.clear().catch(() => {});
      },
    });
    this.#tab = tab;
    this.status.set({ ...this.status.get(), user: user || undefined });
    return tab.open();
  }

  /** Shows the copy of another user, who is signed in now. @param {string} user */
  async #switch(user) {
    const tab = this.#tab;
    this.#tab = undefined;
    this.#showNothing();
    await tab?.close();
    if (!this.#stopped) await this.#show(user);
  }

  async #lastUser() {
    const store = await this.#storage.open(`rowtide ${this.#options.url}`);
    const { user } = /** @type {any} */ ((await store.load()).meta);
    store.close();
    return user;
  }

  /** @param {string | undefined} user */
  async #remember(user) {
    const store = await this.#storage.open(`rowtide ${this.#options.url}`);
    await store.write({ rows: [], entries: [], gone: [], meta: { user } });
    store.close();
  }

  /** @param {import('./tab.js').ConnectionStatus} status */
  #setConnection({ connection, error }) {
    if (this.#stopped) return;
    this.status.set({ ...this.#counted(), connection, error });
    this.#missed();
  }

  #counted() {
    return {
      ...this.status.get(),
      pending: this.#optimistic.pending().length,
      leads: this.#tab?.leads ?? false,
    };
  }

  /** @param {Step} step */
  #step(step) {
    this.#shown.changed(step.changes);
    this.status.set(this.#counted());
    for (const acked of step.acked) {
      const { id, code, message = '' } = acked;
      const promise = this.#unconfirmed.get(id);
      this.#unconfirmed.delete(id);
      if (code) promise?.reject(new RowtideError(code, message));
      else promise?.resolve();
      this.#shown.bell.ring(this.#onAcked, acked);
    }
  }
}
