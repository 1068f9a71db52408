/**
 * The optimistic layer: the rows as the server last told them (the base) and on top of them the
 * mutations that are not settled, in order. That is what is shown. A mutation shows at once, stays on
 * top of whatever comes, and goes in the very step in which the base has its effects, or in which it
 * is refused. A state machine without I/O, clock or randomness: messages in, steps out. Where several
 * tabs share a queue, one leads, and the others follow the records of its steps.
 */
import { RowtideError } from './error.js';
import { applied, check, same } from './op.js';

/** The most mutations that wait to be settled. */
const MAX_PENDING = 10_000;
/**
 * @typedef {import('./op.js').Row} Row
 * @typedef {import('./op.js').Op} Op
 * @typedef {Record<string, string[]>} Keys the columns of each table's primary key
 * @typedef {{ table: string, key: string, row?: Row, before?: Row }} Change how a row is shown now
 *   and before; without `row` it is gone
 * @typedef {{ id: string, ops: Op[], code?: string, message?: string }} Settled refused if it has a code
 * @typedef {'pending' | 'held' | 'refused'} State `held`: confirmed, and shown until the base has its
 *   effects; `refused`: shows nothing, and keeps its number until that is settled
 * @typedef {{ id: string, ops: Op[], number?: number, state: State }} Entry a mutation in the queue
 * @typedef {{ keys?: Keys, rows: [string, string, Row | undefined][], entries: Entry[], gone: string[],
 *   settled: Settled[] }} StepRecord what a step did, for storage and other tabs
 * @typedef {{ changes: Change[], settled: Settled[], record: StepRecord }} Step
 * @typedef {{ base: Row | undefined, ops: { entry: Entry, op: Op }[], stale: boolean }} Layer the pending
 *   operations on a row; `stale` if what is shown does not follow from them any more
 * @typedef {{ keys?: Keys, cursor?: string, last?: number, settled?: number }} Meta
 * @typedef {{ meta: Meta, rows: [string, string, Row][], entries: Entry[] }} Stored
 * @typedef {{ name: string, key: string[], rows: Map<string, Row>, layers: Map<string, Layer> }} Table
 *   `rows` are those that are shown; the base of a row with pending operations is in its layer
 */

/** @returns {StepRecord} */
const emptyRecord = () => ({ rows: [], entries: [], gone: [], settled: [] });

/** The rows that a step may have changed, with what was shown before it. */
class Dirty {
  /** @type {Map<Table, Map<string, Row | undefined>>} */
  tables = new Map();

  /**
   * @param {Table} table
   * @param {string} key
   */
  note(table, key) {
    let rows = this.tables.get(table);
    if (!rows) this.tables.set(table, (rows = new Map()));
    if (!rows.has(key)) rows.set(key, table.rows.get(key));
  }
}

export class Optimistic {
  /** @type {Map<string, Table>} */
  tables = new Map();
  /** In the order of numbers; those without one last. @type {Entry[]} */
  queue = [];
  /** @type {Map<string, Entry>} */
  #byId = new Map();
  /** A snapshot that is not complete yet. @type {Map<Table, Map<string, Row>> | undefined} */
  #arriving;
  /** Where the base stands. @type {string | undefined} */
  cursor;
  /** Whether this tab gives numbers. */
  leading = false;
  /** The highest number that was given. */
  last = 0;
  /** Every number up to this one is settled. */
  settled = 0;
  /** The highest number that the server may have seen. */
  sent = 0;
  /** The highest number sent on this connection. @type {number | undefined} */
  #sending;

  /** @param {Keys} [keys] what is known of the tables before the server tells */
  constructor(keys = {}) {
    for (const [name, key] of Object.entries(keys)) this.#add(name, key);
  }

  /**
   * @param {string} name
   * @param {string[]} key
   * @returns {Table}
   */
  #add(name, key) {
    const table = { name, key, rows: new Map(), layers: new Map() };
    this.tables.set(name, table);
    return table;
  }

  /** @returns {Keys} */
  keys() {
    return Object.fromEntries([...this.tables].map(([name, { key }]) => [name, key]));
  }

  /** The mutations whose outcome is not known, in order. */
  pending() {
    return this.queue.filter((entry) => entry.state === 'pending');
  }

  /**
   * The key of a row: the JSON of its values, in the order of the key's columns.
   * @param {Table} table
   * @param {Row} row
   * @returns {string | undefined} nothing if a column is missing
   */
  keyOf(table, row) {
    const values = table.key.map((column) => row[column]);
    return values.includes(undefined) ? undefined : JSON.stringify(values);
  }

  /**
   * Makes a mutation: it shows at once.
   * @param {string} id unique for ever
   * @param {Op[]} ops
   * @returns {Step}
   * @throws {RowtideError} when the server could not take it; nothing is changed then
   */
  mutate(id, ops) {
    check(ops, (table) => this.tables.get(table)?.key);
    if (this.queue.length >= MAX_PENDING) {
      throw new RowtideError('queue_full', `${this.queue.length} mutations wait for the server; no more can be kept`);
    }
    return this.#step((dirty, record) => this.#enqueue({ id, ops, state: 'pending' }, dirty, record));
  }

  /**
   * Takes a mutation that another tab has made, or that was stored.
   * @param {Entry} entry
   * @returns {Step}
   */
  adopt(entry) {
    return this.#step((dirty, record) => {
      if (!this.#byId.has(entry.id)) this.#enqueue({ ...entry }, dirty, record);
    });
  }

  /**
   * @param {Entry} entry
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #enqueue(entry, dirty, record) {
    if (this.leading) {
      entry.number = ++this.last;
      record.entries.push(entry);
    }
    this.queue.push(entry);
    this.#byId.set(entry.id, entry);
    this.#push(entry, dirty);
  }

  /**
   * Begins to give numbers: those without one get theirs.
   * @returns {Step}
   */
  lead() {
    return this.#step((_, record) => {
      this.leading = true;
      for (const entry of this.queue) {
        if (entry.number === undefined) {
          entry.number = ++this.last;
          record.entries.push(entry);
        }
      }
    });
  }

  /**
   * Applies a message of the server.
   * @param {any} message
   * @returns {Step}
   * @throws {Error} when it is not of the protocol; nothing is changed then
   */
  apply(message) {
    return this.#step((dirty, record) => {
      switch (message.type) {
        case 'connected':
          return this.#connected(message, dirty, record);
        case 'snapshot': {
          const table = this.#told(message.table);
          const keyed = message.rows.map((/** @type {Row} */ row) => [this.#keyTold(table, row), row]);
          let rows = this.#arriving?.get(table);
          if (!rows) this.#arriving?.set(table, (rows = new Map()));
          for (const [key, row] of keyed) rows?.set(key, row);
          return undefined;
        }
        case 'ready':
          if (this.#arriving) this.#replace(this.#arriving, dirty, record);
          this.#arriving = undefined;
          this.cursor = message.cursor;
          return this.#releaseHeld(Infinity, dirty, record);
        case 'tx':
          return this.#transaction(message, dirty, record);
        case 'reject': {
          const entry = this.queue.find((entry) => entry.number === message.id);
          if (entry?.state !== 'pending' || message.id > this.sent) return undefined;
          return this.#refuse(entry, message, dirty, record);
        }
        default:
          return undefined;
      }
    });
  }

  /**
   * @param {any} message
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #connected(message, dirty, record) {
    /** @type {Keys} */
    const keys = {};
    for (const name of Object.keys(message.tables)) keys[name] = message.tables[name].key;
    this.#setKeys(keys, dirty, record);
    this.#arriving = message.mode === 'snapshot' ? new Map() : undefined;
    const last = message.lastMutation;
    const refused = new Map(message.refused.map((/** @type {any} */ refusal) => [refusal.id, refusal]));
    this.#settle(last, refused, true, dirty, record);
    // What is left goes on behind what the server knows, also if the server knows of more than was
    // ever sent (another had this client id) or of less (its database was restored).
    this.settled = this.#sending = this.last = last;
    for (const entry of this.queue) {
      if (entry.state === 'held') continue;
      this.last += 1;
      if (entry.number === this.last) continue;
      entry.number = this.last;
      record.entries.push(entry);
    }
  }

  /**
   * @param {any} message
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #transaction({ cursor, changes, ack }, dirty, record) {
    const keyed = changes.map((/** @type {any} */ change) => {
      const table = this.#told(change.table);
      return [table, this.#keyTold(table, change.row), change.op === 'put' ? change.row : undefined];
    });
    for (const [table, key, row] of keyed) this.#setBase(table, key, row, dirty, record);
    this.cursor = cursor;
    if (ack === undefined || ack === null) return;
    this.#releaseHeld(ack, dirty, record);
    this.#settle(ack, new Map(), false, dirty, record);
  }

  /**
   * @param {Map<Table, Map<string, Row>>} arriving
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #replace(arriving, dirty, record) {
    for (const table of this.tables.values()) {
      const rows = arriving.get(table) ?? new Map();
      for (const key of [...table.rows.keys(), ...table.layers.keys()]) {
        if (!rows.has(key)) this.#setBase(table, key, undefined, dirty, record);
      }
      for (const [key, row] of rows) this.#setBase(table, key, row, dirty, record);
    }
  }

  /**
   * Settles all up to a number; those that are confirmed go on being shown if they are to be held.
   * @param {number} last
   * @param {Map<number, any>} refused
   * @param {boolean} hold
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #settle(last, refused, hold, dirty, record) {
    const upto = Math.min(last, this.sent);
    this.settled = Math.max(this.settled, upto);
    // In front are those with the lowest numbers.
    const due = this.queue.filter((entry) => (entry.number ?? Infinity) <= upto && entry.state !== 'held');
    for (const entry of due) {
      const refusal = refused.get(entry.number ?? 0);
      if (entry.state === 'pending' && refusal) this.#refuse(entry, refusal, dirty, record);
      if (entry.state === 'pending') record.settled.push({ id: entry.id, ops: entry.ops });
      if (entry.state === 'pending' && hold) {
        entry.state = 'held';
        record.entries.push(entry);
      } else {
        this.#remove(entry, dirty, record);
      }
    }
  }

  /**
   * @param {Entry} entry
   * @param {any} refusal
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #refuse(entry, { code, message }, dirty, record) {
    entry.state = 'refused';
    record.entries.push(entry);
    record.settled.push({ id: entry.id, ops: entry.ops, code, message });
    this.#release(entry, dirty);
  }

  /**
   * @param {number} upto
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #releaseHeld(upto, dirty, record) {
    for (const entry of this.queue.filter(({ state, number = 0 }) => state === 'held' && number <= upto)) {
      this.#remove(entry, dirty, record);
    }
  }

  /**
   * @param {Entry} entry
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #remove(entry, dirty, record) {
    this.queue.splice(this.queue.indexOf(entry), 1);
    this.#byId.delete(entry.id);
    record.gone.push(entry.id);
    this.#release(entry, dirty);
  }

  /** The connection has ended. */
  disconnected() {
    this.#sending = undefined;
    this.#arriving = undefined;
  }

  /** Takes another client id: no number that was given counts. */
  renumber() {
    return this.#step((_, record) => {
      this.last = this.settled = this.sent = 0;
      for (const entry of this.queue) {
        entry.number = ++this.last;
        record.entries.push(entry);
      }
    });
  }

  /**
   * The next mutation to send on this connection, once.
   * @param {number} window how many may be under way
   * @param {(entry: Entry) => boolean} durable
   * @returns {{ type: 'mutate', id: number, ops: Op[] } | undefined}
   */
  nextToSend(window, durable) {
    if (this.#sending === undefined) return undefined;
    // What was sent on a former connection may have been settled meanwhile.
    const number = Math.max(this.#sending, this.settled) + 1;
    if (number - this.settled > window) return undefined;
    const entry = this.queue.find((entry) => entry.number === number && entry.state !== 'held');
    if (!entry || !durable(entry)) return undefined;
    this.#sending = number;
    this.sent = Math.max(this.sent, number);
    return { type: 'mutate', id: number, ops: entry.ops };
  }

  /**
   * Follows a step of the tab that leads.
   * @param {StepRecord} led
   * @returns {Step}
   */
  follow(led) {
    return this.#step((dirty, record) => {
      if (led.keys) this.#setKeys(led.keys, dirty, record);
      for (const [name, key, row] of led.rows) {
        const table = this.tables.get(name);
        if (table) this.#setBase(table, key, row, dirty, record);
      }
      for (const told of led.entries) this.#update(told, dirty, record);
      for (const id of led.gone) {
        const entry = this.#byId.get(id);
        if (entry) this.#remove(entry, dirty, record);
      }
      record.settled.push(...led.settled);
    });
  }

  /**
   * @param {Entry} told
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #update(told, dirty, record) {
    let entry = this.#byId.get(told.id);
    if (!entry) this.#enqueue((entry = { ...told }), dirty, record);
    const moved = entry.number !== told.number;
    entry.number = told.number;
    if (told.state === 'refused' && entry.state !== 'refused') this.#release(entry, dirty);
    entry.state = told.state;
    if (!moved) return;
    this.queue.sort(inOrder);
    this.#touched(entry, (table, key, layer) => {
      dirty.note(table, key);
      layer.ops.sort((a, b) => inOrder(a.entry, b.entry));
      layer.stale = true;
    });
  }

  /**
   * Takes what was stored in place of all there is, but for mutations that cannot be stored yet.
   * @param {Stored} stored
   * @param {(entry: Entry) => boolean} keep whether a mutation that is not stored is still to be made
   * @returns {Step}
   */
  restore(stored, keep) {
    this.leading = false;
    this.cursor = stored.meta.cursor;
    this.settled = stored.meta.settled ?? 0;
    // What was given a number may have been sent.
    this.last = this.sent = stored.meta.last ?? 0;
    return this.#step((dirty, record) => {
      const known = new Set(stored.entries.map((entry) => entry.id));
      const kept = this.queue.filter((entry) => !known.has(entry.id) && keep(entry));
      for (const entry of [...this.queue]) this.#remove(entry, dirty, record);
      this.#setKeys({ ...this.keys(), ...stored.meta.keys }, dirty, record);
      /** @type {Map<Table, Map<string, Row>>} */
      const arriving = new Map();
      for (const table of this.tables.values()) arriving.set(table, new Map());
      for (const [name, key, row] of stored.rows) {
        const table = this.tables.get(name);
        if (table) arriving.get(table)?.set(key, row);
      }
      this.#replace(arriving, dirty, record);
      for (const entry of [...stored.entries].sort(inOrder)) this.#enqueue({ ...entry }, dirty, record);
      for (const entry of kept) this.#enqueue({ ...entry, number: undefined }, dirty, record);
    });
  }

  /**
   * @param {string} name
   * @returns {Table}
   */
  #told(name) {
    const table = this.tables.get(name);
    if (!table) throw new Error(`the server sent a row of table \`${name}\`, which it has not told of`);
    return table;
  }

  /**
   * @param {Table} table
   * @param {Row} row
   * @returns {string}
   */
  #keyTold(table, row) {
    const key = this.keyOf(table, row);
    if (key === undefined) throw new Error(`the server sent a row of table \`${table.name}\` without its key`);
    return key;
  }

  /**
   * @param {Keys} keys
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #setKeys(keys, dirty, record) {
    if (same(keys, this.keys())) return;
    record.keys = keys;
    for (const entry of this.queue) this.#release(entry, dirty);
    for (const table of this.tables.values()) {
      const key = keys[table.name];
      if (same(key, table.key)) continue;
      // Rows of a table that is gone, or whose key is another now, are forgotten; it comes whole again.
      for (const at of table.rows.keys()) this.#setBase(table, at, undefined, dirty, record);
      if (key) table.key = key;
      else this.tables.delete(table.name);
    }
    for (const [name, key] of Object.entries(keys)) this.tables.get(name) ?? this.#add(name, key);
    for (const entry of this.queue) if (entry.state !== 'refused') this.#push(entry, dirty);
  }

  /**
   * @param {Table} table
   * @param {string} key
   * @param {Row | undefined} row
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #setBase(table, key, row, dirty, record) {
    const layer = table.layers.get(key);
    const before = layer ? layer.base : table.rows.get(key);
    if (same(before, row)) return;
    dirty.note(table, key);
    record.rows.push([table.name, key, row]);
    if (layer) Object.assign(layer, { base: row, stale: true });
    else show(table, key, row);
  }

  /**
   * Shows a mutation on top of all others.
   * @param {Entry} entry
   * @param {Dirty} dirty
   */
  #push(entry, dirty) {
    if (entry.state === 'refused') return;
    for (const op of entry.ops) {
      const table = this.tables.get(op.table);
      const key = table && this.keyOf(table, op.row);
      // Of a table whose key is not known nothing can be shown.
      if (!table || key === undefined) continue;
      dirty.note(table, key);
      let layer = table.layers.get(key);
      if (!layer) table.layers.set(key, (layer = { base: table.rows.get(key), ops: [], stale: false }));
      layer.ops.push({ entry, op });
      show(table, key, applied(table.rows.get(key), op));
    }
  }

  /**
   * Shows a mutation no longer.
   * @param {Entry} entry
   * @param {Dirty} dirty
   */
  #release(entry, dirty) {
    this.#touched(entry, (table, key, layer) => {
      dirty.note(table, key);
      layer.ops = layer.ops.filter((op) => op.entry !== entry);
      layer.stale = true;
      if (layer.ops.length) return;
      table.layers.delete(key);
      show(table, key, layer.base);
    });
  }

  /**
   * @param {Entry} entry
   * @param {(table: Table, key: string, layer: Layer) => void} visit
   */
  #touched(entry, visit) {
    for (const op of entry.ops) {
      const table = this.tables.get(op.table);
      const key = table && this.keyOf(table, op.row);
      const layer = key === undefined ? undefined : table?.layers.get(key);
      if (table && key !== undefined && layer) visit(table, key, layer);
    }
  }

  /**
   * @param {(dirty: Dirty, record: StepRecord) => void} work
   * @returns {Step}
   */
  #step(work) {
    const dirty = new Dirty();
    const record = emptyRecord();
    work(dirty, record);
    /** @type {Change[]} */
    const changes = [];
    for (const [table, rows] of dirty.tables) {
      for (const [key, before] of rows) {
        const layer = table.layers.get(key);
        let row = table.rows.get(key);
        if (layer?.stale) {
          row = layer.ops.reduce((/** @type {Row | undefined} */ row, { op }) => applied(row, op), layer.base);
          layer.stale = false;
        }
        // What is equal stays the same object.
        if (same(row, before)) row = before;
        show(table, key, row);
        if (row !== before) changes.push({ table: table.name, key, row, before });
      }
    }
    return { changes, settled: record.settled, record };
  }
}

/**
 * @param {Table} table
 * @param {string} key
 * @param {Row | undefined} row
 */
function show(table, key, row) {
  if (row) table.rows.set(key, row);
  else table.rows.delete(key);
}

/**
 * @param {Entry} a
 * @param {Entry} b
 */
function inOrder(a, b) {
  // Infinity less itself is no number.
  return (a.number ?? Infinity) === (b.number ?? Infinity) ? 0 : (a.number ?? Infinity) - (b.number ?? Infinity);
}
