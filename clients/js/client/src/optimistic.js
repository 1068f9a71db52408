/**
 * The optimistic layer. It keeps the rows as the server last sent them (the base) and the mutations that
 * are not acknowledged yet; the application sees the base with these mutations applied in order. A
 * mutation shows at once and stays on top of later changes of the base. It goes in the same step in which
 * its effects arrive in the base, or in which the server rejects it. The layer is a state machine without
 * I/O, clock or randomness: messages go in, steps come out. Where several tabs share a queue, one tab
 * leads, and the others apply the records of its steps.
 *
 * Stored copies and tabs that run an earlier version of this file share the names in `StepRecord`,
 * `QueueEntry` and `Meta`: there an acknowledgement is `settled` and a rejection `refused`.
 */
import { RowtideError } from './error.js';
import { applied, check, insertOf, same, temporary, withValues } from './op.js';

/** The most mutations that may wait for their acknowledgement. */
const MAX_PENDING = 10_000;
/**
 * @typedef {import('./op.js').Row} Row
 * @typedef {import('./op.js').Op} Op
 * @typedef {import('./op.js').RowOp} RowOp
 * @typedef {Record<string, readonly string[]>} Keys the columns of each table's primary key
 * @typedef {{ table: string, key: string, row?: Row, before?: Row }} Change how a row is shown now
 *   and how it was shown before; without `row` it is gone
 * @typedef {{ id: string, ops: Op[], code?: string, message?: string }} Acked the outcome of a mutation:
 *   rejected if it has a code, else applied
 * @typedef {'pending' | 'held' | 'refused'} QueueState `held`: applied, and shown until its effects are
 *   in the base; `refused`: rejected and no longer shown, but it keeps its number until the server
 *   acknowledges that
 * @typedef {{ id: string, ops: Op[], number?: number, state: QueueState, at?: number }} QueueEntry a mutation in the queue; `at`
 *   orders those that were stored before they had a number
 * @typedef {{ keys?: Keys, rows: [string, string, Row | undefined][], entries: QueueEntry[], gone: string[],
 *   settled: Acked[], made?: [string, any][] }} StepRecord what a step did, for the storage and for other tabs
 * @typedef {{ changes: Change[], acked: Acked[], record: StepRecord }} Step
 * @typedef {{ base: Row | undefined, ops: { entry: QueueEntry, op: RowOp }[], stale: boolean }} Layer the
 *   pending operations on a row; `stale` if the row must be computed from them again
 * @typedef {{ keys?: Keys, cursor?: string, last?: number, settled?: number }} Meta
 * @typedef {{ meta: Meta, rows: [string, string, Row][], entries: QueueEntry[] }} StoredCopy
 * @typedef {Record<string, { key: readonly string[], defaults?: Row }>} Given what an application tells of its tables.
 *   `defaults` is what the database puts into columns that an insert leaves out: a new row shows it, and it is not sent
 * @typedef {{ name: string, key: readonly string[], defaults?: Row, rows: Map<string, Row>, layers: Map<string, Layer> }} ShownTable
 *   `rows` are the rows that are shown; the base of a row with pending operations is in its layer
 */

/** @returns {StepRecord} */
export const emptyRecord = () => ({ rows: [], entries: [], gone: [], settled: [] });

/** The rows that a step may have changed, as they were shown before it. */
class Dirty {
  /** @type {Map<ShownTable, Map<string, Row | undefined>>} */
  tables = new Map();

  /**
   * @param {ShownTable} table
   * @param {string} key
   */
  note(table, key) {
    const rows = mapAt(this.tables, table);
    if (!rows.has(key)) rows.set(key, table.rows.get(key));
  }
}

export class Optimistic {
  /** @type {Map<string, ShownTable>} */
  tables = new Map();
  /** In the order of their numbers; entries without a number come last. @type {QueueEntry[]} */
  queue = [];
  /** @type {Map<string, QueueEntry>} */
  #byId = new Map();
  /** A snapshot that is not complete yet. @type {Map<ShownTable, Map<string, Row>> | undefined} */
  #arriving;
  /** The cursor of the base. @type {string | undefined} */
  cursor;
  /** Whether this tab numbers the mutations. */
  leading = false;
  /** The highest number in use. */
  last = 0;
  /** The server has acknowledged every number up to this one. */
  acked = 0;
  /** The highest number that the server may have seen. */
  sent = 0;
  /** The highest number sent on this connection. @type {number | undefined} */
  #sending;
  /** What became of temporary keys. @type {Map<string, any>} */
  #made = new Map();
  #given;

  /** @param {Given} [given] the tables, as far as they are known before the first `connected` */
  constructor(given = {}) {
    this.#given = given;
    for (const name in given) this.#add(name, given[name].key);
  }

  /**
   * @param {string} name
   * @param {readonly string[]} key
   * @returns {ShownTable}
   */
  #add(name, key) {
    const table = { name, key, defaults: this.#given[name]?.defaults, rows: new Map(), layers: new Map() };
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
   * @param {ShownTable} table
   * @param {Row} row
   * @returns {string | undefined} nothing if a column is missing
   */
  keyOf(table, row) {
    const values = table.key.map((column) => this.#known(row[column]));
    return values.includes(undefined) ? undefined : JSON.stringify(values);
  }

  /** The key that was made, for a temporary one. @param {any} value */
  #known(value) {
    return this.#made.size && this.#made.has(value) ? this.#made.get(value) : value;
  }

  /** @param {Op[]} ops */
  #knowing(ops) {
    return ops.map((op) => withValues(op, (value) => this.#known(value)));
  }

  /**
   * Makes a mutation, which shows at once.
   * @param {string} id one that no mutation had before
   * @param {Op[]} ops
   * @returns {Step}
   * @throws {RowtideError} when the server could not accept it; nothing is changed then
   */
  mutate(id, ops) {
    ops = this.#knowing(ops);
    check(ops, (table) => this.tables.get(table)?.key);
    if (this.queue.length >= MAX_PENDING) {
      throw new RowtideError('queue_full', `${MAX_PENDING} mutations wait`);
    }
    return this.#step((dirty, record) => this.#enqueue({ id, ops, state: 'pending' }, dirty, record));
  }

  /**
   * Adds a mutation that another tab has made, or that was stored.
   * @param {QueueEntry} entry
   * @returns {Step}
   */
  adopt(entry) {
    return this.#step((dirty, record) => {
      if (!this.#byId.has(entry.id)) this.#enqueue({ ...entry }, dirty, record);
    });
  }

  /**
   * @param {QueueEntry} entry
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #enqueue(entry, dirty, record) {
    if (this.leading) this.#number(entry, record);
    this.queue.push(entry);
    this.#byId.set(entry.id, entry);
    this.#push(entry, dirty);
  }

  /**
   * @param {QueueEntry} entry
   * @param {StepRecord} record
   */
  #number(entry, record) {
    entry.number = ++this.last;
    record.entries.push(entry);
  }

  /**
   * Begins to number the mutations, first those that have no number yet.
   * @returns {Step}
   */
  lead() {
    return this.#step((_, record) => {
      this.leading = true;
      for (const entry of this.queue) {
        if (entry.number === undefined) this.#number(entry, record);
      }
    });
  }

  /**
   * Applies a message of the server.
   * @param {any} message
   * @returns {Step}
   * @throws {Error} when the message breaks the protocol; nothing is changed then
   */
  apply(message) {
    return this.#step((dirty, record) => {
      switch (message.type) {
        case 'connected':
          return this.#connected(message, dirty, record);
        case 'snapshot': {
          const table = this.#tableNamed(message.table);
          const keyed = message.rows.map((/** @type {Row} */ row) => [this.#keyIn(table, row), row]);
          const rows = this.#arriving && mapAt(this.#arriving, table);
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
          return this.#reject(entry, message, dirty, record);
        }
      }
      return undefined;
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
    for (const name in message.tables) keys[name] = message.tables[name].key;
    this.#setKeys(keys, dirty, record);
    this.#arriving = message.mode === 'snapshot' ? new Map() : undefined;
    const last = message.lastMutation;
    const rejections = new Map(message.refused.map((/** @type {any} */ rejection) => [rejection.id, rejection]));
    this.#acknowledge(last, rejections, message.keys, true, dirty, record);
    // The mutations that are left get the numbers after the server's last one. The server may know of
    // more than was ever sent (another client had this id), or of less (its database was restored).
    this.acked = this.#sending = this.last = last;
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
  #transaction({ cursor, changes, ack, keys }, dirty, record) {
    const keyed = changes.map((/** @type {any} */ change) => {
      const table = this.#tableNamed(change.table);
      return [table, this.#keyIn(table, change.row), change.op === 'put' ? change.row : undefined];
    });
    for (const [table, key, row] of keyed) this.#setBase(table, key, row, dirty, record);
    this.cursor = cursor;
    if (ack === undefined || ack === null) return;
    this.#releaseHeld(ack, dirty, record);
    this.#acknowledge(ack, new Map(), keys, false, dirty, record);
  }

  /**
   * @param {Map<ShownTable, Map<string, Row>>} arriving
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
   * The server has acknowledged all mutations up to a number.
   * @param {number} last
   * @param {Map<number, any>} rejections by number
   * @param {{ id: number, op: number, key: Row }[] | undefined} keys that were made
   * @param {boolean} hold whether the applied ones stay visible, because their effects are still to come
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #acknowledge(last, rejections, keys, hold, dirty, record) {
    const upto = Math.min(last, this.sent);
    this.acked = Math.max(this.acked, upto);
    // The queue is in the order of numbers, so this keeps their order.
    const due = this.queue.filter((entry) => (entry.number ?? Infinity) <= upto && entry.state !== 'held');
    this.#name(temporaries(due, keys), dirty, record);
    for (const entry of due) {
      const rejection = rejections.get(entry.number ?? 0);
      if (entry.state === 'pending' && rejection) this.#reject(entry, rejection, dirty, record);
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
   * Puts what became of temporary keys in their place, so that rows keep what is not acknowledged yet.
   * @param {[string, any][]} made
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #name(made, dirty, record) {
    if (!made.length) return;
    record.made = made;
    for (const entry of this.queue) this.#release(entry, dirty);
    for (const [key, value] of made) this.#made.set(key, value);
    for (const entry of this.queue) {
      const ops = this.#knowing(entry.ops);
      if (entry.number !== undefined && ops.some((op, at) => op !== entry.ops[at])) record.entries.push(entry);
      entry.ops = ops;
      this.#push(entry, dirty);
    }
  }

  /**
   * @param {QueueEntry} entry
   * @param {any} rejection
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #reject(entry, { code, message }, dirty, record) {
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
   * @param {QueueEntry} entry
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

  /** Numbers all mutations anew, for another client id. */
  renumber() {
    return this.#step((_, record) => {
      this.last = this.acked = this.sent = 0;
      for (const entry of this.queue) this.#number(entry, record);
    });
  }

  /**
   * The next mutation to send on this connection. Each is returned once.
   * @param {number} window how many may wait for their acknowledgement
   * @param {(entry: QueueEntry) => boolean} durable
   * @returns {{ type: 'mutate', id: number, ops: Op[] } | undefined}
   */
  nextToSend(window, durable) {
    if (this.#sending === undefined) return undefined;
    // The server may have acknowledged mutations of an earlier connection meanwhile.
    const number = Math.max(this.#sending, this.acked) + 1;
    if (number - this.acked > window) return undefined;
    const entry = this.queue.find((entry) => entry.number === number && entry.state !== 'held');
    if (!entry || !durable(entry)) return undefined;
    this.#sending = number;
    this.sent = Math.max(this.sent, number);
    return { type: 'mutate', id: number, ops: entry.ops.map((op, at) => this.#sent(entry, op, at)) };
  }

  /**
   * An operation as it is sent: an insert without the key that is to be made, and what refers to that by its number.
   * @param {QueueEntry} entry
   * @param {Op} op
   * @param {number} at
   */
  #sent(entry, op, at) {
    return withValues(op, (value, column) => {
      const of = insertOf(value);
      if (!of) return value;
      if (op.op === 'insert' && value === temporary(entry.id, at, column)) return undefined;
      // The server rejects what refers to a mutation that is not there.
      return { $key: [this.#byId.get(of[0])?.number ?? Number.MAX_SAFE_INTEGER, of[1], of[2]] };
    });
  }

  /**
   * Applies a step of the leading tab.
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
      this.#name(led.made ?? [], dirty, record);
      for (const entry of led.entries) this.#update(entry, dirty, record);
      for (const id of led.gone) {
        const entry = this.#byId.get(id);
        if (entry) this.#remove(entry, dirty, record);
      }
      record.settled.push(...led.settled);
    });
  }

  /**
   * @param {QueueEntry} now the entry as the leading tab has it
   * @param {Dirty} dirty
   * @param {StepRecord} record
   */
  #update(now, dirty, record) {
    let entry = this.#byId.get(now.id);
    if (!entry) this.#enqueue((entry = { ...now }), dirty, record);
    const moved = entry.number !== now.number;
    entry.number = now.number;
    if (now.state === 'refused' && entry.state !== 'refused') this.#release(entry, dirty);
    entry.state = now.state;
    if (!moved) return;
    this.queue.sort(inOrder);
    this.#touched(entry, (table, key, layer) => {
      dirty.note(table, key);
      layer.ops.sort((a, b) => inOrder(a.entry, b.entry));
      layer.stale = true;
    });
  }

  /**
   * Replaces everything by a stored copy, except for mutations that are too new to be in it.
   * @param {StoredCopy} stored
   * @param {(entry: QueueEntry) => boolean} keep whether to keep a mutation that is not in the copy
   * @returns {Step}
   */
  restore(stored, keep) {
    this.leading = false;
    this.cursor = stored.meta.cursor;
    this.acked = stored.meta.settled ?? 0;
    // Every mutation that has a number may have been sent.
    this.last = this.sent = stored.meta.last ?? 0;
    return this.#step((dirty, record) => {
      const known = new Set(stored.entries.map((entry) => entry.id));
      const kept = this.queue.filter((entry) => !known.has(entry.id) && keep(entry));
      for (const entry of [...this.queue]) this.#remove(entry, dirty, record);
      this.#setKeys({ ...this.keys(), ...stored.meta.keys }, dirty, record);
      /** @type {Map<ShownTable, Map<string, Row>>} */
      const arriving = new Map();
      for (const [name, key, row] of stored.rows) {
        const table = this.tables.get(name);
        if (table) mapAt(arriving, table).set(key, row);
      }
      this.#replace(arriving, dirty, record);
      for (const entry of [...stored.entries].sort(inOrder)) this.#enqueue({ ...entry }, dirty, record);
      for (const entry of kept) this.#enqueue({ ...entry, number: undefined }, dirty, record);
    });
  }

  /**
   * @param {string} name
   * @returns {ShownTable}
   */
  #tableNamed(name) {
    const table = this.tables.get(name);
    if (!table) throw new Error(`there is no table \`${name}\``);
    return table;
  }

  /**
   * @param {ShownTable} table
   * @param {Row} row
   * @returns {string}
   */
  #keyIn(table, row) {
    const key = this.keyOf(table, row);
    if (key === undefined) throw new Error(`a row of \`${table.name}\` has no key`);
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
      // The server sends a table whose key has changed as a whole, so its rows are dropped here.
      for (const at of table.rows.keys()) this.#setBase(table, at, undefined, dirty, record);
      if (key) table.key = key;
      else this.tables.delete(table.name);
    }
    for (const [name, key] of Object.entries(keys)) this.tables.get(name) ?? this.#add(name, key);
    for (const entry of this.queue) this.#push(entry, dirty);
  }

  /**
   * @param {ShownTable} table
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
   * Applies a mutation on top of all others.
   * @param {QueueEntry} entry
   * @param {Dirty} dirty
   */
  #push(entry, dirty) {
    if (entry.state === 'refused') return;
    for (const [table, key, op] of this.#named(entry)) {
      dirty.note(table, key);
      let layer = table.layers.get(key);
      if (!layer) table.layers.set(key, (layer = { base: table.rows.get(key), ops: [], stale: false }));
      layer.ops.push({ entry, op });
      show(table, key, applied(table.rows.get(key), op, table.defaults));
    }
  }

  /**
   * Takes the effects of a mutation away.
   * @param {QueueEntry} entry
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
   * @param {QueueEntry} entry
   * @param {(table: ShownTable, key: string, layer: Layer) => void} visit
   */
  #touched(entry, visit) {
    for (const [table, key] of this.#named(entry)) {
      const layer = table.layers.get(key);
      if (layer) visit(table, key, layer);
    }
  }

  /**
   * The rows that a mutation names. Those of a table whose key is not known cannot be found.
   * @param {QueueEntry} entry
   * @returns {Iterable<[table: ShownTable, key: string, op: RowOp]>}
   */
  *#named({ ops }) {
    for (const op of ops) {
      const table = op.op !== 'call' && this.tables.get(op.table);
      const key = table && this.keyOf(table, op.row);
      if (key) yield [table, key, op];
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
          row = layer.ops.reduce((/** @type {Row | undefined} */ row, { op }) => applied(row, op, table.defaults), layer.base);
          layer.stale = false;
        }
        // A row that is equal to the one before stays the same object.
        if (same(row, before)) row = before;
        show(table, key, row);
        if (row !== before) changes.push({ table: table.name, key, row, before });
      }
    }
    return { changes, acked: record.settled, record };
  }
}

/**
 * The map under a key: a new one where there is none.
 * @template K, At, V
 * @param {Map<K, Map<At, V>>} maps
 * @param {K} key
 */
function mapAt(maps, key) {
  let map = maps.get(key);
  if (!map) maps.set(key, (map = new Map()));
  return map;
}

/**
 * The temporary keys of inserts that are acknowledged, each with what was made for it: the key, or, where nobody has said
 * that, what the server knows it by.
 * @param {QueueEntry[]} entries
 * @param {{ id: number, op: number, key: Row }[]} [keys]
 * @returns {[string, any][]}
 */
function temporaries(entries, keys = []) {
  return entries.flatMap(({ id, number, ops }) =>
    ops.flatMap((op, at) => {
      if (op.op !== 'insert') return [];
      const made = keys.find((made) => made.id === number && made.op === at)?.key;
      const columns = Object.keys(op.row).filter((column) => op.row[column] === temporary(id, at, column));
      return columns.map((column) => /** @type {[string, any]} */ ([op.row[column], made?.[column] ?? { $key: [number, at, column] }]));
    }),
  );
}

/**
 * @param {ShownTable} table
 * @param {string} key
 * @param {Row | undefined} row
 */
function show(table, key, row) {
  if (row) table.rows.set(key, row);
  else table.rows.delete(key);
}

/**
 * @param {QueueEntry} a
 * @param {QueueEntry} b
 */
function inOrder(a, b) {
  const at = (/** @type {QueueEntry} */ { number = Number.MAX_SAFE_INTEGER }) => number;
  return at(a) - at(b);
}
