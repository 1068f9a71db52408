/**
 * One tab's part in the copy of one user. The tabs of a browser share the copy's storage; one of them
 * leads: it has the connection, gives the mutations their numbers and writes what the server tells.
 * The others follow its steps over a channel, and hand it their mutations through the storage, so that
 * none is lost with a tab. A step has a number; who misses one reads the storage again. When the tab
 * that leads is gone, the browser gives its lock to the next, which reads the storage and goes on.
 */
import { Connection } from './connection.js';
import { RowtideError } from './error.js';

/** How long changes of rows are gathered before they are written, in ms. */
const GATHER_MS = 100;
/** How long after a failed write it is tried again, in ms. */
const AGAIN_MS = 1000;

/** How many refusals are kept for tabs that did not hear them. */
const MAX_REFUSALS = 100;

/**
 * @typedef {import('./optimistic.js').Entry} Entry
 * @typedef {import('./optimistic.js').Step} Step
 * @typedef {import('./optimistic.js').StepRecord} StepRecord
 * @typedef {import('./storage.js').Store} Store
 * @typedef {{ connection: import('./connection.js').State, error?: { code: string, message: string } }} Standing
 *
 * @typedef {object} TabOptions
 * @property {string} name names the copy in this browser
 * @property {string} user
 * @property {Store} store
 * @property {boolean} shared whether other tabs have the same store
 * @property {boolean} connected whether to connect when it leads
 * @property {import('./optimistic.js').Optimistic} optimistic
 * @property {import('./connection.js').ConnectionOptions} connection
 * @property {(step: Step) => void} onStep
 * @property {(standing: Standing) => void} onStanding
 * @property {(user: string) => void} onOtherUser
 * @property {() => void} onSignOut another tab has signed the user out: this copy is to be cleared too
 */

/** A new id of a client or of a mutation: 32 hexadecimal digits. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export class Tab {
  #options;
  #optimistic;
  #connection;
  /** @type {BroadcastChannel | undefined} */
  #channel;
  #closed = new AbortController();
  /** @type {Standing} */
  standing = { connection: 'connecting' };
  clientId = '';
  /** The last step that this copy has. */
  #seq = 0;
  /** Steps that came while the storage was read. @type {any[] | undefined} */
  #held;
  /** Whether other tabs follow. */
  #followed = false;
  /** What is to be written. */
  #rows = new Map();
  /** @type {Map<string, Entry | undefined>} */
  #entries = new Map();
  #dirty = false;
  /** @type {Promise<void> | undefined} */
  #writing;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #gathering;
  /** The number under which a mutation is stored; `undefined` for one that has none yet. */
  #stored = new Map();
  #storedSettled = 0;
  /** The last refusals, for tabs that did not hear them. @type {{ id: string, code: string, message?: string }[]} */
  #refusals = [];

  /** @param {TabOptions} options */
  constructor(options) {
    this.#options = options;
    this.#optimistic = options.optimistic;
    this.#connection = new Connection(options.connection, {
      hello: () => ({
        clientId: this.clientId,
        cursor: this.#optimistic.cursor,
        settled: this.#storedSettled || undefined,
      }),
      receive: (message) => this.#took(this.#optimistic.apply(message)),
      next: (window) => this.#optimistic.nextToSend(window, (entry) => this.#isDurable(entry)),
      state: (connection, error) => {
        if (connection !== 'live' && connection !== 'connecting') this.#optimistic.disconnected();
        // Why it was cut off is told until it is live again.
        const why = connection === 'connecting' ? this.standing.error : error;
        this.#stands({ connection, error: why && { code: why.code, message: why.message } });
      },
      isUser: (user) => {
        if (user !== options.user) queueMicrotask(() => options.onOtherUser(user));
        return user === options.user;
      },
      otherClientId: () => {
        this.clientId = randomId();
        this.#took(this.#optimistic.renumber());
      },
    });
  }

  get closed() {
    return this.#closed.signal.aborted;
  }

  get leads() {
    return this.#optimistic.leading;
  }

  /** Shows what is stored, and stands for election. */
  async open() {
    const { name, shared } = this.#options;
    if (shared) {
      this.#channel = new BroadcastChannel(name);
      this.#channel.onmessage = ({ data }) => this.#heard(data);
    }
    await this.#read();
    const { signal } = this.#closed;
    if (signal.aborted) return;
    if (!shared) {
      this.#lead();
      return;
    }
    // What was made before the storage was open.
    for (const entry of this.#optimistic.queue) if (!this.#stored.has(entry.id)) this.#handOver(entry);
    this.#say({ type: 'hello' });
    const elected = async () => {
      await this.#read();
      if (signal.aborted) return;
      this.#lead();
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
    };
    navigator.locks.request(name, { signal }, elected).catch(() => {});
  }

  /** Whether to be connected: in all tabs. @param {boolean} connect */
  connect(connect) {
    this.#say({ type: 'connect', connect });
    this.#connect(connect);
  }

  /** @param {boolean} connect */
  #connect(connect) {
    this.#options.connected = connect;
    if (!this.leads) return;
    if (connect) this.#connection.start();
    else {
      this.#connection.stop();
      this.#optimistic.disconnected();
      this.#stands({ connection: 'offline' });
    }
  }

  /** Whether there is a better chance to connect than when it was last tried. */
  nudge() {
    if (this.leads && this.#options.connected && this.standing.connection === 'offline') this.#connection.start();
  }

  /**
   * A mutation was made here.
   * @param {Entry} entry
   * @param {Step} step
   */
  made(entry, step) {
    if (this.leads) return this.#took(step);
    this.#options.onStep(step);
    return this.#handOver(entry);
  }

  /** Gives a mutation to the tab that leads, also if that is the next one. @param {Entry} entry */
  async #handOver(entry) {
    this.#entries.set(entry.id, entry);
    this.#dirty = true;
    // What cannot be stored here can perhaps be stored there.
    await this.flush().catch(() => {});
    if (!this.leads) this.#say({ type: 'mutation', entry });
  }

  /** Ends this tab's part; resolves when what was made here is stored. */
  async close() {
    if (this.#closed.signal.aborted) return;
    this.#connection.stop();
    await this.flush().catch(() => {});
    this.#closed.abort();
    this.#channel?.close();
    clearTimeout(this.#gathering);
    this.#options.store.close();
  }

  /** Forgets the copy. Every tab does: one may have written after another has forgotten. */
  async clear() {
    this.#say({ type: 'signOut' });
    this.#connection.stop();
    this.#closed.abort();
    await this.#writing?.catch(() => {});
    clearTimeout(this.#gathering);
    await this.#options.store.clear();
    this.#channel?.close();
    this.#options.store.close();
  }

  #lead() {
    if (!this.clientId) this.clientId = randomId();
    this.#took(this.#optimistic.lead());
    this.#say({ type: 'lead' });
    if (this.#options.connected) this.#connection.start();
    else this.#stands({ connection: 'offline' });
  }

  /** Takes the copy from the storage. */
  async #read() {
    const known = new Set(this.#optimistic.queue.filter((entry) => this.#stored.has(entry.id)));
    const stored = await this.#options.store.load();
    if (this.#closed.signal.aborted) return;
    const { clientId = '', seq = 0, settled = 0, refusals = [] } = /** @type {any} */ (stored.meta);
    this.#refusals = refusals;
    this.clientId = clientId;
    this.#seq = seq;
    this.#storedSettled = settled;
    // Stored before, and there no longer: it is settled.
    const step = this.#optimistic.restore(stored, (entry) => !known.has(entry));
    for (const entry of stored.entries) this.#stored.set(entry.id, entry.number);
    const there = new Set(stored.entries.map(({ id }) => id));
    for (const { id, ops, state } of known) {
      // A refusal that was told is not told again.
      if (state !== 'pending' || there.has(id)) continue;
      const refusal = this.#refusals.find((refusal) => refusal.id === id);
      step.settled.push({ id, ops, code: refusal?.code, message: refusal?.message });
    }
    this.#options.onStep(step);
  }

  /** @param {Step} step of this tab while it leads */
  #took(step) {
    const { record } = step;
    for (const [table, key, row] of record.rows) this.#rows.set(`${table}\n${key}`, [table, key, row]);
    for (const entry of record.entries) this.#entries.set(entry.id, entry);
    for (const id of record.gone) this.#entries.set(id, undefined);
    for (const { id, code, message } of record.settled) if (code) this.#refusals.push({ id, code, message });
    this.#refusals.splice(0, this.#refusals.length - MAX_REFUSALS);
    this.#seq += 1;
    this.#dirty = true;
    if (this.#followed) this.#say({ type: 'step', seq: this.#seq, record });
    this.#options.onStep(step);
    if (record.entries.length) this.flush().catch(() => {});
    else this.#gathering ??= setTimeout(() => this.flush().catch(() => {}), GATHER_MS);
  }

  /** @param {Entry} entry */
  #isDurable(entry) {
    return this.#stored.get(entry.id) === entry.number;
  }

  /** Writes what there is to write. */
  async flush() {
    while (this.#writing) await this.#writing;
    if (!this.#dirty || this.#closed.signal.aborted) return;
    this.#writing = this.#write();
    await this.#writing.finally(() => (this.#writing = undefined));
    this.#connection.pump();
  }

  async #write() {
    clearTimeout(this.#gathering);
    this.#gathering = undefined;
    this.#dirty = false;
    const [rows, entries] = [this.#rows, this.#entries];
    this.#rows = new Map();
    this.#entries = new Map();
    const { cursor, last, settled } = this.#optimistic;
    const { clientId } = this;
    const meta = this.leads
      ? { clientId, cursor, last, settled, seq: this.#seq, keys: this.#optimistic.keys(), refusals: [...this.#refusals] }
      : undefined;
    const kept = [...entries.values()].filter((entry) => entry !== undefined).map((entry) => ({ ...entry }));
    const gone = [...entries].filter(([, entry]) => !entry).map(([id]) => id);
    try {
      await this.#options.store.write({ rows: [...rows.values()], entries: kept, gone, meta });
    } catch (error) {
      // What has come meanwhile is newer.
      this.#rows = new Map([...rows, ...this.#rows]);
      this.#entries = new Map([...entries, ...this.#entries]);
      this.#dirty = true;
      this.#gathering ??= setTimeout(() => this.flush().catch(() => {}), AGAIN_MS);
      this.#stands({ ...this.standing, error: { code: 'storage', message: `${error}` } });
      throw new RowtideError('storage', `${error}`);
    }
    for (const entry of kept) this.#stored.set(entry.id, entry.number);
    for (const id of gone) this.#stored.delete(id);
    if (meta) this.#storedSettled = settled;
    if (this.standing.error?.code === 'storage') this.#stands({ connection: this.standing.connection });
  }

  /** @param {Standing} standing */
  #stands(standing) {
    this.standing = standing;
    this.#options.onStanding(standing);
    if (this.#followed) this.#say({ type: 'standing', standing });
  }

  /** @param {any} message */
  #say(message) {
    if (!this.#closed.signal.aborted) this.#channel?.postMessage(message);
  }

  /** @param {any} message of another tab */
  async #heard(message) {
    if (message.type === 'signOut') return this.#options.onSignOut();
    if (message.type === 'connect') return this.#connect(message.connect);
    if (message.type === 'mutation') {
      this.#stored.set(message.entry.id, undefined);
      const step = this.#optimistic.adopt(message.entry);
      return this.leads ? this.#took(step) : this.#options.onStep(step);
    }
    if (this.leads) {
      if (message.type !== 'hello') return undefined;
      this.#followed = true;
      await this.flush().catch(() => {});
      this.#say({ type: 'synced' });
      return this.#say({ type: 'standing', standing: this.standing });
    }
    if (message.type === 'standing') return this.#stands(message.standing);
    if (message.type === 'lead') return this.#say({ type: 'hello' });
    if (message.type === 'synced') return this.#catchUp();
    if (message.type === 'step') return this.#held ? void this.#held.push(message) : this.#follow(message);
    return undefined;
  }

  async #catchUp() {
    if (this.#held) return;
    this.#held = [];
    await this.#read();
    const held = this.#held;
    this.#held = undefined;
    if (!this.leads) for (const message of held) this.#follow(message);
  }

  /** @param {{ seq: number, record: StepRecord }} message */
  #follow({ seq, record }) {
    if (seq <= this.#seq) return;
    if (seq > this.#seq + 1) return void this.#say({ type: 'hello' });
    this.#seq = seq;
    for (const entry of record.entries) this.#stored.set(entry.id, entry.number);
    this.#options.onStep(this.#optimistic.follow(record));
  }
}
