/**
 * The client that an application uses: tables to read, `mutate` to write, and `status`. The client knows
 * which user is signed in, and shows only that user's copy.
 */
import { wait } from './connection.js';
import { RowtideError, lacking } from './error.js';
import { temporary } from './op.js';
import { Optimistic } from './optimistic.js';
import { Observed, Shown, TableQuery, keyRow, promised, subscribed } from './query.js';
import { OPENS, inTime, indexedDBStorage, memoryStorage } from './storage.js';
import { Tab, randomId } from './tab.js';
import { claims } from './token.js';

/**
 * @typedef {import('./op.js').Op} Op
 * @typedef {import('./optimistic.js').Step} Step
 * @typedef {import('./optimistic.js').Acked} Acked
 * @typedef {import('./storage.js').Storage} Storage
 * @typedef {import('./storage.js').Store} Store
 * @typedef {{ connection: import('./connection.js').ConnectionState, pending: number, user?: string,
 *   error?: { code: string, message: string }, leads: boolean, durable?: boolean, storageError?: string }} Status
 *
 * @typedef {object} Options
 * @property {string} url
 * @property {(why: { rejected: boolean, refused: boolean }) => string | null | Promise<string | null>} token
 *   `null`: nobody is signed in; `refused` is the deprecated name of `rejected`
 * @property {Record<string, { key: readonly string[], defaults?: Record<string, any> }>} [tables]
 * @property {Storage} [storage]
 * @property {string} [user]
 * @property {number} [appVersion]
 * @property {any} [WebSocket]
 * @property {boolean} [connect]
 * @property {(bell: import('./query.js').Bell) => import('./subscribing.js').Subscriptions} [subscriptions]
 * @property {(shown: Shown, status: Observed<Status>, subscriptions?: import('./subscribing.js').Subscriptions) => (name: string) => TableQuery} [queries]
 * @property {(direction: 'sent' | 'received', message: any) => void} [trace]
 */

/** Whether tabs can share a copy. Browsers can in pages that came over HTTPS or from localhost. */
const canShare = () => globalThis.indexedDB && globalThis.BroadcastChannel && globalThis.navigator?.locks;

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
  /** What each mutation without an acknowledgement has promised, by id. @type {Map<string, Record<'confirmed' | 'stored', ReturnType<typeof promised>>>} */
  #unconfirmed = new Map();
  /** @type {Set<(acked: Acked) => void>} */
  #onAcked = new Set();
  #connected;
  /** The token that told who the user is. The first connection uses it. @type {string | null | undefined} */
  #token;
  #stopped = false;
  #unlisten = () => {};
  #subscriptions;
  #makeTable;
  /** The name of the store that knows the last user. */
  #lastName;
  #opened = promised();
  #begun = false;
  /** Resolves when the stored copy is shown. */
  opened = this.#opened.promise;

  /** @param {Options} options */
  constructor(options) {
    if (!/^wss?:/.test(options.url)) throw new TypeError(`\`url\` is not ws://host/sync: ${options.url}`);
    this.#options = { ...options };
    this.#lastName = `rowtide ${options.url}`;
    /** Sees every message, from the next one on. */
    this.trace = options.trace;
    this.#connected = options.connect ?? true;
    this.#storage = options.storage ?? (canShare() ? indexedDBStorage() : memoryStorage());
    this.#optimistic = new Optimistic(options.tables);
    this.#shown = new Shown(this.#optimistic);
    this.#subscriptions = options.subscriptions?.(this.#shown.bell);
    /** @type {Status} */
    const status = { connection: 'offline', pending: 0, leads: false };
    this.status = new Observed(this.#shown.bell, status);
    this.#makeTable = options.queries?.(this.#shown, this.status, this.#subscriptions) ?? ((/** @type {string} */ name) => new TableQuery(this.#shown, name));
    if (this.#connected) this.#begin();
  }

  /** Opens the copy, once. Until then the client asks for nothing and waits for nothing, as is right on a server. */
  #begin() {
    if (this.#begun || this.#stopped) return;
    const { WebSocket = globalThis.WebSocket } = this.#options;
    if (!WebSocket) throw new TypeError('pass a `WebSocket`');
    this.#options.WebSocket = WebSocket;
    this.#begun = true;
    this.#say({ connection: 'connecting' });
    this.#open().then(this.#opened.resolve, this.#opened.reject);
    const nudge = () => this.#tab?.nudge();
    const listen = (/** @type {'addEventListener' | 'removeEventListener'} */ how) => {
      // React Native has none.
      globalThis[how]?.('online', nudge);
      globalThis.document?.[how]('visibilitychange', nudge);
    };
    listen('addEventListener');
    this.#unlisten = () => listen('removeEventListener');
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
      if (tables && !(name in tables) && !this.keyOf(name)) throw new TypeError(`there is no table \`${name}\``);
      this.#tables.set(name, (table = this.#makeTable(name)));
      this.#missed();
    }
    return table;
  }

  /** Says once of each table that is read that the server does not have it. */
  #missed() {
    if (this.status.get().connection !== 'live') return;
    for (const name of this.#tables.keys()) {
      if (this.#told.has(name) || this.keyOf(name)) continue;
      this.#told.add(name);
      console.warn(`there is no table \`${name}\``);
    }
  }

  /** The names of the known tables. */
  tables() {
    return [...this.#optimistic.tables.keys()];
  }

  /** The columns of a table's primary key, as far as they are known. @param {string} table */
  keyOf(table) {
    return this.#optimistic.tables.get(table)?.key;
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
    if (!this.#subscriptions) throw lacking('subscriptions');
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
   * @returns {{ id: string, confirmed: Promise<void>, stored: Promise<void> }}
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
    if (done?.then) throw new TypeError('`mutate` is not async');
    const step = this.#optimistic.mutate(id, ops);
    const [confirmed, stored] = [promised(), promised()];
    this.#unconfirmed.set(id, { confirmed, stored });
    if (this.#tab) this.#tab.made(/** @type {any} */ (this.#optimistic.queue.at(-1)), step);
    else this.#step(step);
    return { id, confirmed: confirmed.promise, stored: stored.promise };
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
            for (const column of this.keyOf(table) ?? []) {
              keyed[column] ??= temporary(id, ops.length, column);
            }
            add('insert', table, keyed);
            return keyed;
          },
          update: (/** @type {any} */ row) => add('update', table, row),
          delete: (/** @type {any} */ key) => {
            const columns = this.keyOf(table);
            if (!columns && (typeof key !== 'object' || !key)) {
              throw new RowtideError('bad_request', `name the key columns of \`${table}\``);
            }
            add('delete', table, columns ? keyRow(columns, key) : key);
          },
        };
      },
    });
  }

  /** Connects after `disconnect`, or ends the wait before the next try. */
  connect() {
    this.#connected = true;
    this.#begin();
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
    this.#begin();
    await this.opened.catch(() => {});
    this.#stop({ code: 'signed_out', message: 'the user has signed out' });
    this.#showNothing();
    if (this.#tab) await inTime(this.#tab.clear());
    await this.#answered((storage) => this.#remember(undefined, storage));
  }

  /** Deletes the user's rows and pending mutations, as `signOut` does, and begins anew in this tab. */
  async forget() {
    this.#begin();
    await this.opened;
    await this.#switch(this.status.get().user ?? '', 'clear');
  }

  /** @param {{ code: string, message: string }} [error] */
  #stop(error) {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#unlisten();
    this.#say({ connection: 'stopped', error });
  }

  /** Shows no rows any more, and ends the mutations that wait. */
  #showNothing() {
    this.#step(this.#optimistic.restore({ meta: {}, rows: [], entries: [] }, () => false));
    this.#subscriptions?.clear();
    for (const { confirmed, stored } of this.#unconfirmed.values()) {
      for (const { reject } of [confirmed, stored]) reject(new RowtideError('signed_out', 'the user has signed out'));
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
        this.#say({ connection: 'offline', error: { code: 'token', message: `${error}` } });
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
    const name = `${this.#lastName} ${user}`;
    const [store, copy] = await this.#answered(async (storage) => {
      const store = await inTime(storage.open(name), OPENS);
      await this.#remember(user, storage);
      return /** @type {const} */ ([store, await store.load()]);
    });
    if (this.#stopped) return store.close();
    const { shared, durable = true } = this.#storage;
    const tab = new Tab({
      name,
      user,
      store,
      copy,
      shared,
      connected: this.#connected,
      optimistic: this.#optimistic,
      subscriptions: this.#subscriptions,
      connection: {
        .../** @type {Options & { WebSocket: any }} */ (this.#options),
        trace: (...said) => this.trace?.(...said),
        token: (rejected) => {
          const first = rejected ? undefined : this.#token;
          this.#token = undefined;
          return first ?? this.#newToken(rejected);
        },
      },
      onStored: (entries, error) => {
        // What is in memory outlives the page when the server has it.
        if (durable) for (const { id } of entries) this.#unconfirmed.get(id)?.stored[error ? 'reject' : 'resolve'](error);
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
    this.#say({ user: user || undefined, durable });
    return tab.open();
  }

  /**
   * Shows the copy of another user, who is signed in now.
   * @param {string} user
   * @param {'close' | 'clear'} [end] what becomes of the former copy
   */
  async #switch(user, end = 'close') {
    const tab = this.#tab;
    this.#tab = undefined;
    this.#showNothing();
    if (tab) await inTime(tab[end]());
    if (!this.#stopped) await this.#show(user);
  }

  /**
   * Does something with the storage, or, where that fails or does not answer, from then on with memory.
   * @template T
   * @param {(storage: Storage) => Promise<T>} work
   */
  async #answered(work) {
    const storage = this.#storage;
    try {
      return await inTime(work(storage));
    } catch (error) {
      this.#storage = memoryStorage();
      this.#say({ durable: false, storageError: `${error}` });
      return work(this.#storage);
    }
  }

  #lastUser() {
    return this.#answered(async (storage) => {
      const store = await inTime(storage.open(this.#lastName), OPENS);
      const { user } = /** @type {any} */ ((await store.load()).meta);
      store.close();
      return user;
    });
  }

  /**
   * @param {string | undefined} user
   * @param {Storage} storage
   */
  async #remember(user, storage) {
    const store = await inTime(storage.open(this.#lastName), OPENS);
    await store.write({ rows: [], entries: [], gone: [], meta: { user } });
    store.close();
  }

  /** @param {import('./tab.js').ConnectionStatus} status */
  #setConnection({ connection, error }) {
    if (this.#stopped) return;
    this.#say({ connection, error });
    this.#missed();
  }

  /** What the status has become, beside what is counted. @param {Partial<Status>} changed */
  #say(changed) {
    const counted = { pending: this.#optimistic.pending().length, leads: this.#tab?.leads ?? false };
    this.status.set({ ...this.status.get(), ...counted, ...changed });
  }

  /** @param {Step} step */
  #step(step) {
    this.#shown.changed(step.changes);
    this.#say({});
    for (const acked of step.acked) {
      const { id, code, message = '' } = acked;
      const promises = this.#unconfirmed.get(id);
      this.#unconfirmed.delete(id);
      // Nothing is left to be stored.
      promises?.stored.resolve();
      if (code) promises?.confirmed.reject(new RowtideError(code, message));
      else promises?.confirmed.resolve();
      this.#shown.bell.ring(this.#onAcked, acked);
    }
  }
}
