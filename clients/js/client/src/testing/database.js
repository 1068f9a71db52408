/**
 * Tables in memory, with transactions. A commit replaces the tables as a whole, so whoever holds a state goes on
 * seeing it. Rows are frozen: nobody changes one in place. What the database itself looks after (defaults,
 * constraints, triggers) happens here, whoever writes; who may write is no matter of this module.
 */
import { RowtideError } from '../error.js';
import { keyRow } from '../query.js';

/** The default of a column that counts, as an identity of Postgres does: 1, 2, 3, … for each table of each server. */
export const serial = Symbol('serial');

/**
 * @typedef {import('../op.js').Row} Row
 * @typedef {{ userId: string | null, claims: Record<string, any> }} Auth
 * @typedef {{ rows: (table: string, where?: Row | ((row: Row) => boolean)) => Row[], row: (table: string, key: any) => Row | undefined }} Db
 * @typedef {{ key: readonly string[], sync?: 'always' | 'on_demand', visible?: (row: Row, auth: Auth, db: Db) => boolean,
 *   insert?: (row: Row, auth: Auth, db: Db) => boolean | string, update?: (before: Row, after: Row, auth: Auth, db: Db) => boolean | string,
 *   delete?: (row: Row, auth: Auth, db: Db) => boolean | string, immutable?: readonly string[], readonly?: readonly string[],
 *   defaults?: Record<string, any>, constraints?: Record<string, (row: Row, db: Db) => boolean>,
 *   trigger?: (tx: any, change: { before?: Row, after?: Row }, db: Db) => void }} TableRules
 * @typedef {Map<string, Map<string, Row>>} State the rows of each table, by the JSON of their keys
 */

/** How deep triggers may write for each other. */
const MAX_TRIGGERS = 100;

/** @param {any} value of JSON @returns {any} a copy that nobody can change */
export function frozen(value) {
  const copy = JSON.parse(JSON.stringify(value));
  const freeze = (/** @type {any} */ part) => {
    if (typeof part === 'object' && part) Object.values(Object.freeze(part)).forEach(freeze);
  };
  freeze(copy);
  return copy;
}

export class Database {
  /** @type {State} */
  state;
  /** The last number of each column that counts. @type {Map<string, number>} */
  #numbers = new Map();

  /** @param {Record<string, TableRules>} tables */
  constructor(tables) {
    this.tables = tables;
    this.state = new Map(Object.keys(tables).map((name) => [name, new Map()]));
  }

  begin() {
    return new Transaction(this);
  }

  /** @param {string} column of which table @param {number} [taken] a number that was given */
  number(column, taken) {
    const last = this.#numbers.get(column) ?? 0;
    const next = taken ?? last + 1;
    this.#numbers.set(column, Math.max(last, next));
    return next;
  }
}

/** What one transaction sees and writes. Nothing of it is there until `commit`. */
export class Transaction {
  #database;
  /** @type {State} */
  #state;
  /** The tables that are copies already. @type {Set<string>} */
  #own = new Set();
  #depth = 0;

  /** @param {Database} database */
  constructor(database) {
    this.#database = database;
    this.#state = new Map(database.state);
  }

  commit() {
    this.#database.state = this.#state;
  }

  /** What rules and triggers read: the rows as they are now in this transaction. @returns {Db} */
  get db() {
    return reader(this.#database.tables, () => this.#state);
  }

  /** What writes as the database's owner, with a writer for each table. @returns {any} */
  get owner() {
    return new Proxy({}, {
      get: (_, name) => {
        const table = String(name);
        return {
          insert: (/** @type {Row} */ row) => this.insert(table, row),
          update: (/** @type {Row} */ row) => {
            const before = this.row(table, row);
            if (!before) throw new RowtideError('not_found', `there is no such row in table \`${table}\``);
            return this.put(table, before, { ...before, ...row });
          },
          delete: (/** @type {any} */ key) => {
            const before = this.row(table, key);
            if (before) this.remove(table, before);
          },
        };
      },
    });
  }

  /** @param {string} table @param {any} key @returns {Row | undefined} */
  row(table, key) {
    return this.#rows(table).get(keyOf(this.#rules(table).key, key));
  }

  /** The row that an insert makes of what was given. @param {string} table @param {Row} given @returns {Row} */
  complete(table, given) {
    /** @type {Row} */
    const row = { ...given };
    for (const [column, value] of Object.entries(this.#rules(table).defaults ?? {})) {
      const numbered = `${table}.${column}`;
      if (value === serial) row[column] = this.#database.number(numbered, row[column]);
      else if (row[column] === undefined) row[column] = typeof value === 'function' ? value(row, this.db) : value;
    }
    return row;
  }

  /** @param {string} table @param {Row} given @returns {Row} */
  insert(table, given) {
    const row = this.complete(table, given);
    if (this.row(table, row)) throw new RowtideError('constraint', `\`${table}_pkey\`: the key is taken`);
    return this.put(table, undefined, row);
  }

  /** @param {string} table @param {Row | undefined} before @param {Row} after @returns {Row} as it is stored */
  put(table, before, after) {
    const rules = this.#rules(table);
    const row = frozen(after);
    const missing = rules.key.find((column) => row[column] === undefined || row[column] === null);
    if (missing) throw new RowtideError('constraint', `column \`${missing}\` of table \`${table}\` must not be null`);
    this.#write(table, before, row);
    for (const [name, holds] of Object.entries(rules.constraints ?? {})) {
      if (!holds(row, this.db)) throw new RowtideError('constraint', `constraint \`${name}\` of table \`${table}\` does not hold`);
    }
    this.#trigger(table, { before, after: row });
    return this.row(table, row) ?? row;
  }

  /** @param {string} table @param {Row} before */
  remove(table, before) {
    this.#write(table, before, undefined);
    this.#trigger(table, { before });
  }

  /** @param {string} table @param {Row | undefined} before @param {Row | undefined} after */
  #write(table, before, after) {
    const { key } = this.#rules(table);
    if (!this.#own.has(table)) this.#state.set(table, new Map(this.#rows(table)));
    this.#own.add(table);
    const rows = this.#rows(table);
    if (before && (!after || keyOf(key, before) !== keyOf(key, after))) rows.delete(keyOf(key, before));
    if (after) rows.set(keyOf(key, after), after);
  }

  /** @param {string} table @param {{ before?: Row, after?: Row }} change */
  #trigger(table, change) {
    const { trigger } = this.#rules(table);
    if (!trigger) return;
    if (this.#depth === MAX_TRIGGERS) throw new RangeError(`the triggers of table \`${table}\` write for each other without end`);
    this.#depth += 1;
    trigger(this.owner, change, this.db);
    this.#depth -= 1;
  }

  /** @param {string} table */
  #rules(table) {
    return rulesOf(this.#database.tables, table);
  }

  /** @param {string} table */
  #rows(table) {
    this.#rules(table);
    return /** @type {Map<string, Row>} */ (this.#state.get(table));
  }
}

/** @param {readonly string[]} columns @param {any} key */
export const keyOf = (columns, key) => JSON.stringify(Object.values(keyRow([...columns], key)));

/**
 * @param {Record<string, TableRules>} tables
 * @param {string} table
 */
function rulesOf(tables, table) {
  if (!Object.hasOwn(tables, table)) throw new TypeError(`the test server has no table \`${table}\``);
  return tables[table];
}

/**
 * Reads a state.
 * @param {Record<string, TableRules>} tables
 * @param {() => State} state
 * @returns {Db}
 */
export function reader(tables, state) {
  return {
    rows: (table, where) => {
      rulesOf(tables, table);
      const rows = [...(state().get(table)?.values() ?? [])];
      if (!where) return rows;
      if (typeof where === 'function') return rows.filter((row) => where(row));
      const columns = Object.entries(where);
      return rows.filter((row) => columns.every(([column, value]) => row[column] === value));
    },
    row: (table, key) => state().get(table)?.get(keyOf(rulesOf(tables, table).key, key)),
  };
}
