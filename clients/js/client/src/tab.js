/**
 * One tab of a browser and its copy of one user's rows. The tabs share the copy's storage, and one of them
 * leads: it has the connection, numbers the mutations and writes what the server sends. The other tabs
 * apply the leading tab's steps, which they receive over a channel. They store their own mutations before
 * they announce them, so a mutation survives the tab that made it. Steps are numbered; a tab that misses
 * one reads the storage again. When the leading tab closes, the browser gives its lock to another tab,
 * which reads the storage and goes on.
 *
 * Tabs of one browser may run different versions of this file, and they read what earlier versions have
 * stored. So the names in messages between tabs and in the stored `meta` (`settled`, `refusals`,
 * `standing`) stay as they were.
 */
import { Connection } from './connection.js';
import { RowtideError } from './error.js';
import { emptyRecord } from './optimistic.js';
import { inTime } from './storage.js';
import { hex } from './token.js';

/** How long changes of rows are collected before one write, in ms. */
const BATCH_MS = 100;
/** The wait before a failed write is repeated, in ms. */
const RETRY_MS = 1000;

/** How many rejections are stored for tabs that missed them. */
const MAX_REJECTIONS = 100;

/**
 * @typedef {import('./optimistic.js').QueueEntry} QueueEntry
 * @typedef {import('./optimistic.js').Step} Step
 * @typedef {import('./optimistic.js').StepRecord} StepRecord
 * @typedef {import('./storage.js').Store} Store
 * @typedef {{ connection: import('./connection.js').ConnectionState, error?: { code: string, message: string } }} ConnectionStatus
 *
 * @typedef {object} TabOptions
 * @property {string} name names the copy in this browser
 * @property {string} user
 * @property {Store} store
 * @property {import('./optimistic.js').StoredCopy} copy what has been read from the store
 * @property {boolean} shared whether other tabs have the same store
 * @property {boolean} connected whether to connect when this tab leads
 * @property {import('./optimistic.js').Optimistic} optimistic
 * @property {import('./connection.js').ConnectionOptions} connection
 * @property {(entries: QueueEntry[], error?: Error) => void} onStored these mutations are stored, or, with an error, may not be
 * @property {(step: Step) => void} onStep
 * @property {(status: ConnectionStatus) => void} onStatus
 * @property {(user: string) => void} onOtherUser
 * @property {import('./subscribing.js').Subscriptions} [subscriptions]
 * @property {() => void} onSignOut another tab has signed the user out, so this tab must clear the copy too
 */

/** A new id of a client or of a mutation: 32 hexadecimal digits. */
export function randomId() {
  // React Native has no `crypto` unless the application brings one. Who knows an id has no right by that, so others will do.
  const bytes = globalThis.crypto?.getRandomValues(new Uint8Array(16)) ?? Array.from({ length: 16 }, () => Math.random() * 256);
  return Array.from(bytes, hex).join('');
}

export class Tab {
  /** Names this tab to the others. */
  id = randomId();
  #options;
  #optimistic;
  #subscriptions;
  #connection;
  /** @type {BroadcastChannel | undefined} */
  #channel;
  #closed = new AbortController();
  /** Aborts when the tab is closed. */
  signal = this.#closed.signal;
  /** @type {ConnectionStatus} */
  status = { connection: 'connecting' };
  clientId = '';
  /** The number of the last step in this copy. */
  #seq = 0;
  /** Steps that came while this tab read the storage. @type {any[] | undefined} */
  #held;
  /** Whether there are other tabs, which need the steps of this one. */
  #followed = false;
  /** What the next write contains. */
  #rows = new Map();
  /** @type {Map<string, QueueEntry | undefined>} */
  #entries = new Map();
  #dirty = false;
  /** @type {Promise<void> | undefined} */
  #writing;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #nextWrite;
  /** The stored mutations, each with the number that it is stored with; `undefined` if it has none yet. */
  #stored = new Map();
  #storedAcked = 0;
  /** The mutations that the leading tab has not been sent yet. @type {QueueEntry[]} */
  #unshared = [];
  /** When the last mutation was stored without a number, in ms since 1970; no two of a tab have the same. */
  #at = 0;
  /** The last rejections, for tabs that missed them. @type {{ id: string, code: string, message?: string }[]} */
  #rejections = [];

  /** @param {TabOptions} options */
  constructor(options) {
    this.#options = options;
    this.#optimistic = options.optimistic;
    this.#subscriptions = options.subscriptions;
    this.#subscriptions?.attach(this);
    this.#connection = new Connection(options.connection, {
      hello: () => ({
        clientId: this.clientId,
        cursor: this.#optimistic.cursor,
        settled: this.#storedAcked || undefined,
        // What is left keeps its numbers, also where the database has gone back.
        acked: this.#optimistic.acked || undefined,
        ...this.#subscriptions?.hello(this.#optimistic.cursor),
      }),
      receive: (message) => {
        const step = this.#optimistic.apply(message);
        // Before the step is stored: with its rows and its cursor.
        this.#subscriptions?.receive(message);
        this.#led(step);
      },
      next: (window) => this.#optimistic.nextToSend(window, (entry) => this.#isDurable(entry)) ?? this.#subscriptions?.next(),
      state: (connection, error) => {
        if (connection !== 'live' && connection !== 'connecting') this.#disconnected();
        // The status keeps the reason of the last ending until the connection is live again.
        this.#setStatus({ connection, error: connection === 'connecting' ? this.status.error : error });
      },
      isUser: (user) => {
        if (user !== options.user) queueMicrotask(() => options.onOtherUser(user));
        return user === options.user;
      },
      otherClientId: () => {
        this.clientId = randomId();
        // What was acknowledged was so under the other one.
        this.#storedAcked = 0;
        this.#led(this.#optimistic.renumber());
      },
    });
  }

  get name() {
    return this.#options.name;
  }

  get shared() {
    return this.#options.shared;
  }

  get closed() {
    return this.signal.aborted;
  }

  get leads() {
    return this.#optimistic.leading;
  }

  /** Shows the stored copy, and waits to lead. */
  async open() {
    const { name, shared } = this.#options;
    if (shared) {
      this.#channel = new BroadcastChannel(name);
      this.#channel.onmessage = ({ data }) => this.#heard(data);
    }
    this.#restore(this.#options.copy);
    const { signal } = this;
    if (signal.aborted) return;
    if (!shared) return this.#lead();
    // Mutations that were made before the storage was open.
    for (const entry of this.#optimistic.queue) if (!this.#stored.has(entry.id)) this.#shareMutation(entry);
    this.say({ type: 'hello' });
    const elected = async () => {
      // If the storage does not answer now, another tab may do better.
      await inTime(this.#read());
      if (signal.aborted) return;
      this.#lead();
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
    };
    navigator.locks.request(name, { signal }, elected).catch((error) => signal.aborted || this.#cannotStore(error, []));
  }

  /** Connects or disconnects all tabs. @param {boolean} connect */
  connect(connect) {
    this.say({ type: 'connect', connect });
    this.#connect(connect);
  }

  /** @param {boolean} connect */
  #connect(connect) {
    this.#options.connected = connect;
    if (!this.leads) return;
    if (connect) this.#connection.start();
    else {
      this.#connection.stop();
      this.#disconnected();
      this.#setStatus({ connection: 'offline' });
    }
  }

  #disconnected() {
    this.#optimistic.disconnected();
    this.#subscriptions?.disconnected();
  }

  /** Connects without a wait: the browser says that it is online, or the page has become visible. */
  nudge() {
    if (this.leads && this.#options.connected && this.status.connection === 'offline') this.#connection.start();
  }

  /**
   * Distributes a mutation that this tab has made.
   * @param {QueueEntry} entry
   * @param {Step} step
   */
  made(entry, step) {
    if (this.leads) return this.#led(step);
    this.#options.onStep(step);
    return this.#shareMutation(entry);
  }

  /** Stores a mutation for the next leading tab, and sends it to the present one. @param {QueueEntry} entry */
  async #shareMutation(entry) {
    // Those without a number are read in this order.
    entry.at = this.#at = Math.max(Date.now(), this.#at + 1);
    this.#entries.set(entry.id, entry);
    this.#unshared.push(entry);
    this.#dirty = true;
    // If this tab cannot store it, the leading tab may be able to.
    await this.flush();
    // Who waited for the same write may be told in another order, but those that were made before are stored too.
    const made = this.#unshared.splice(0, this.#unshared.indexOf(entry) + 1);
    if (!this.leads) for (const entry of made) this.say({ type: 'mutation', entry });
  }

  /** Closes the copy in this tab; resolves when the mutations made here are stored. */
  async close() {
    if (this.closed) return;
    this.#connection.stop();
    await inTime(this.flush()).catch(() => {});
    this.#closed.abort();
    this.#channel?.close();
    clearTimeout(this.#nextWrite);
    this.#options.store.close();
  }

  /** Deletes the copy. Every tab does that, since one may write after another has deleted it. */
  async clear() {
    this.say({ type: 'signOut' });
    this.#connection.stop();
    this.#closed.abort();
    await this.#writing;
    clearTimeout(this.#nextWrite);
    await this.#options.store.clear();
    this.#channel?.close();
    this.#options.store.close();
  }

  #lead() {
    if (!this.clientId) this.clientId = randomId();
    this.#led(this.#optimistic.lead());
    this.#subscriptions?.lead();
    this.say({ type: 'lead' });
    if (this.#options.connected) this.#connection.start();
    else this.#setStatus({ connection: 'offline' });
  }

  /** Reads the copy from the storage. */
  async #read() {
    const known = new Set(this.#optimistic.queue.filter((entry) => this.#stored.has(entry.id)));
    const stored = await this.#options.store.load();
    if (!this.closed) this.#restore(stored, known);
  }

  /**
   * @param {import('./optimistic.js').StoredCopy} stored
   * @param {Set<QueueEntry>} [known] the mutations that were stored before it was read
   */
  #restore(stored, known = new Set()) {
    stored.meta = this.#subscriptions?.restore(stored.meta) ?? stored.meta;
    const { clientId = '', seq = 0, settled: acked = 0, refusals: rejections = [] } = /** @type {any} */ (stored.meta);
    this.#rejections = rejections;
    this.clientId = clientId;
    this.#seq = seq;
    this.#storedAcked = acked;
    stored.entries.sort((a, b) => (a.at ?? 0) - (b.at ?? 0));
    // A mutation that was stored and no longer is has been acknowledged.
    const step = this.#optimistic.restore(stored, (entry) => !known.has(entry));
    this.#areStored(stored.entries);
    const there = new Set(stored.entries.map(({ id }) => id));
    for (const { id, ops, state } of known) {
      // The application has heard of this rejection already.
      if (state !== 'pending' || there.has(id)) continue;
      step.acked.push({ ...this.#rejections.find((rejection) => rejection.id === id), id, ops });
    }
    this.#options.onStep(step);
  }

  /** Stores and distributes a step of this tab while it leads. @param {Step} step */
  #led(step) {
    const { record } = step;
    for (const [table, key, row] of record.rows) this.#rows.set(`${table}\n${key}`, [table, key, row]);
    for (const entry of record.entries) this.#entries.set(entry.id, entry);
    for (const id of record.gone) this.#entries.set(id, undefined);
    for (const { id, code, message } of record.settled) if (code) this.#rejections.push({ id, code, message });
    this.#rejections.splice(0, this.#rejections.length - MAX_REJECTIONS);
    this.#seq += 1;
    this.#dirty = true;
    if (this.#followed) this.say({ type: 'step', seq: this.#seq, record, subscriptions: this.#subscriptions?.told() });
    this.#options.onStep(step);
    this.#subscriptions?.stepped();
    if (record.entries.length) this.flush();
    else this.#nextWrite ??= setTimeout(() => this.flush(), BATCH_MS);
  }

  /** Distributes a step that changes no rows. */
  step() {
    this.#led({ changes: [], acked: [], record: emptyRecord() });
    this.pump();
  }

  /** @param {QueueEntry[]} entries */
  #areStored(entries) {
    for (const entry of entries) this.#stored.set(entry.id, entry.number);
    this.#options.onStored(entries);
  }

  /**
   * @param {unknown} error
   * @param {QueueEntry[]} entries
   */
  #cannotStore(error, entries) {
    const failed = new RowtideError('storage', `${error}`);
    this.#setStatus({ ...this.status, error: failed });
    this.#options.onStored(entries, failed);
  }

  /** @param {QueueEntry} entry */
  #isDurable(entry) {
    return this.#stored.get(entry.id) === entry.number;
  }

  /** Writes everything that is not stored yet, as far as it can be: what cannot is tried again. */
  async flush() {
    while (this.#writing) await this.#writing;
    if (!this.#dirty || this.closed) return;
    this.#writing = this.#write();
    await this.#writing;
    this.#writing = undefined;
    this.pump();
  }

  /** Sends what may be sent. */
  pump() {
    this.#connection.pump();
  }

  async #write() {
    clearTimeout(this.#nextWrite);
    this.#nextWrite = undefined;
    this.#dirty = false;
    const [rows, entries] = [this.#rows, this.#entries];
    this.#rows = new Map();
    this.#entries = new Map();
    const { cursor, last, acked } = this.#optimistic;
    const { clientId } = this;
    const meta = this.leads
      ? { clientId, cursor, last, settled: acked, seq: this.#seq, keys: this.#optimistic.keys(), refusals: [...this.#rejections], ...this.#subscriptions?.meta(cursor) }
      : undefined;
    const kept = [...entries.values()].filter((entry) => entry !== undefined).map((entry) => ({ ...entry }));
    const gone = [...entries].filter(([, entry]) => !entry).map(([id]) => id);
    const written = this.#options.store.write({ rows: [...rows.values()], entries: kept, gone, meta });
    // One that does not answer is told of, and waited for: whatever is written next must come after it.
    inTime(written).catch((error) => this.#cannotStore(error, kept));
    try {
      await written;
    } catch {
      // What has changed since then is newer, and replaces what could not be written.
      this.#rows = new Map([...rows, ...this.#rows]);
      this.#entries = new Map([...entries, ...this.#entries]);
      this.#dirty = true;
      this.#nextWrite ??= setTimeout(() => this.flush(), RETRY_MS);
      return;
    }
    this.#areStored(kept);
    for (const id of gone) this.#stored.delete(id);
    if (meta) this.#storedAcked = acked;
    if (this.status.error?.code === 'storage') this.#setStatus({ connection: this.status.connection });
  }

  /** @param {ConnectionStatus} status */
  #setStatus({ connection, error }) {
    // An error has more than what others are told.
    this.status = { connection, error: error && { code: error.code, message: error.message } };
    this.#options.onStatus(this.status);
    if (this.#followed) this.say({ type: 'standing', standing: this.status });
  }

  /** Sends a message to the other tabs. @param {any} message */
  say(message) {
    if (!this.closed) this.#channel?.postMessage(message);
  }

  /** Handles a message of another tab. @param {any} message */
  async #heard(message) {
    this.#subscriptions?.heard(message);
    if (message.type === 'signOut') return this.#options.onSignOut();
    if (message.type === 'connect') return this.#connect(message.connect);
    if (message.type === 'mutation') {
      this.#stored.set(message.entry.id, undefined);
      const step = this.#optimistic.adopt(message.entry);
      return this.leads ? this.#led(step) : this.#options.onStep(step);
    }
    if (this.leads) {
      if (message.type !== 'hello') return undefined;
      this.#followed = true;
      await this.flush();
      this.say({ type: 'synced' });
      return this.say({ type: 'standing', standing: this.status });
    }
    if (message.type === 'standing') return this.#setStatus(message.standing);
    if (message.type === 'lead') return this.say({ type: 'hello' });
    if (message.type === 'synced') return this.#catchUp();
    if (message.type === 'step') return this.#held ? void this.#held.push(message) : this.#follow(message);
    return undefined;
  }

  /** Reads the storage, then applies the steps that came meanwhile. */
  async #catchUp() {
    if (this.#held) return;
    this.#held = [];
    await inTime(this.#read()).catch((error) => this.#cannotStore(error, []));
    const held = this.#held;
    this.#held = undefined;
    if (!this.leads) for (const message of held) this.#follow(message);
  }

  /** Applies a step of the leading tab. @param {{ seq: number, record: StepRecord, subscriptions?: any }} message */
  #follow({ seq, record, subscriptions }) {
    if (seq <= this.#seq) return;
    if (seq > this.#seq + 1) return void this.say({ type: 'hello' });
    this.#seq = seq;
    this.#areStored(record.entries);
    this.#options.onStep(this.#optimistic.follow(record));
    this.#subscriptions?.follow(subscriptions);
  }
}
