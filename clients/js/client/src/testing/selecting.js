/**
 * Which rows a session holds: of those that its user may see, those of tables that are synced always, and those that
 * its subscriptions select. A query is written as in a definition: parameters with their types, and for each table a
 * condition, or a window with an order and a limit.
 */
import { keyOf } from './database.js';

/**
 * @typedef {import('../op.js').Row} Row
 * @typedef {import('./database.js').Auth} Auth
 * @typedef {import('./database.js').Db} Db
 * @typedef {import('./database.js').TableRules} TableRules
 * @typedef {(row: Row, params: Record<string, any>, auth: Auth, db: Db) => boolean} Selects
 * @typedef {{ where?: Selects, order?: string, limit?: number | ((params: Record<string, any>) => number) }} Window
 * @typedef {{ params?: Record<string, string>, select: Record<string, Selects | Window> }} Query
 * @typedef {{ query: string, params?: Record<string, any> }} Wish
 * @typedef {Map<string, { table: string, row: Row }>} Held rows by table and key
 */

/** The most rows of a window. */
const MAX_WINDOW_ROWS = 10_000;

/** What a value of a type of Postgres is in JSON; a type that is not here is text. @type {[RegExp, string, (text: string) => any][]} */
const TYPES = [
  [/^(int2|int4|int8|oid|float4|float8)$/, 'number', Number],
  [/^bool$/, 'boolean', (text) => text === 'true'],
  [/\[\]$/, 'object', (text) => JSON.parse(text)],
  [/^jsonb?$/, '', (text) => JSON.parse(text)],
];

/** @param {string} declared such as `int4`, or `int4 = 50` */
function typeOf(declared) {
  const [name, text] = declared.split(/\s*=\s*/, 2);
  const [, json, read] = TYPES.find(([pattern]) => pattern.test(name)) ?? [, 'string', (/** @type {string} */ text) => text.replace(/^'(.*)'$/, '$1')];
  // Postgres reads digits, too, where a number of 64 bits is wanted.
  const fits = (/** @type {any} */ value) => value === null || !json || typeof value === json || (name === 'int8' && /^-?\d+$/.test(value));
  return { name, fits, fallback: text === undefined ? undefined : read(text) };
}

/** @param {string} text such as `number DESC, id` @returns {(a: Row, b: Row) => number} */
function orderOf(text) {
  const columns = text.split(',').map((part) => {
    const [, column, direction, nulls] = /^\s*"?([^"\s]+)"?(?:\s+(ASC|DESC))?(?:\s+NULLS\s+(FIRST|LAST))?\s*$/i.exec(part) ?? [];
    if (!column) throw new TypeError(`\`${part.trim()}\` is no column to order by`);
    const sign = direction?.toUpperCase() === 'DESC' ? -1 : 1;
    const nullSign = (nulls ? nulls.toUpperCase() === 'FIRST' : sign < 0) ? -1 : 1;
    return { column, sign, nullSign };
  });
  return (a, b) => {
    for (const { column, sign, nullSign } of columns) {
      const [one, other] = [a[column] ?? null, b[column] ?? null];
      if (one === other) continue;
      if (one === null || other === null) return one === null ? nullSign : -nullSign;
      return one < other ? -sign : sign;
    }
    return 0;
  };
}

export class Selecting {
  #tables;
  /** @type {Map<string, { params: [string, ReturnType<typeof typeOf>][], select: [string, Window, ((a: Row, b: Row) => number) | undefined][] }>} */
  #queries = new Map();

  /**
   * @param {Record<string, TableRules>} tables
   * @param {Record<string, Query>} queries
   */
  constructor(tables, queries) {
    this.#tables = tables;
    for (const [name, { params = {}, select }] of Object.entries(queries)) {
      const unknown = Object.keys(select).find((table) => !tables[table]?.visible);
      if (unknown) throw new TypeError(`the query \`${name}\` selects of \`${unknown}\`, which is no table that somebody may see`);
      this.#queries.set(name, {
        params: Object.entries(params).map(([param, declared]) => [param, typeOf(declared)]),
        select: Object.entries(select).map(([table, of]) => {
          const window = typeof of === 'function' ? { where: of } : of;
          if (window.limit !== undefined && !window.order) throw new TypeError(`the query \`${name}\` has a limit and no order`);
          return [table, window, window.order ? orderOf(window.order) : undefined];
        }),
      });
    }
  }

  /** Why a subscription cannot be, if it cannot. @param {Wish} wish @returns {string | undefined} */
  fault({ query, params = {} }) {
    const known = this.#queries.get(query);
    if (!known) return `there is no query \`${query}\``;
    const unknown = Object.keys(params).find((param) => !known.params.some(([name]) => name === param));
    if (unknown) return `the query \`${query}\` has no parameter \`${unknown}\``;
    for (const [param, { name, fits, fallback }] of known.params) {
      if (params[param] === undefined && fallback === undefined) return `the query \`${query}\` needs the parameter \`${param}\`, of type ${name}`;
      if (params[param] !== undefined && !fits(params[param])) return `the parameter \`${param}\` of the query \`${query}\` must be of type ${name}`;
    }
    for (const [, { limit }] of known.select) {
      const most = typeof limit === 'function' ? limit(this.#complete(query, params)) : 0;
      if (!(most >= 0 && most <= MAX_WINDOW_ROWS)) return `a window of the query \`${query}\` has 0 to ${MAX_WINDOW_ROWS} rows`;
    }
    return undefined;
  }

  /**
   * The rows that a session holds.
   * @param {Db} db
   * @param {Auth} auth
   * @param {Iterable<Wish>} wishes
   * @returns {Held}
   */
  held(db, auth, wishes) {
    /** @type {Held} */
    const held = new Map();
    const hold = (/** @type {string} */ table, /** @type {Row} */ row) => {
      held.set(`${table}\n${keyOf(this.#tables[table].key, row)}`, { table, row });
    };
    /** @type {Map<string, Row[]>} */
    const visible = new Map();
    for (const [table, rules] of Object.entries(this.#tables)) {
      if (!rules.visible) continue;
      const rows = db.rows(table).filter((row) => rules.visible?.(row, auth, db));
      visible.set(table, rows);
      if (rules.sync !== 'on_demand') rows.forEach((row) => hold(table, row));
    }
    for (const { query, params } of wishes) {
      const values = this.#complete(query, params);
      for (const [table, { where, limit }, order] of this.#queries.get(query)?.select ?? []) {
        let rows = (visible.get(table) ?? []).filter((row) => !where || where(row, values, auth, db));
        if (order) rows.sort((a, b) => order(a, b) || (keyOf(this.#tables[table].key, a) < keyOf(this.#tables[table].key, b) ? -1 : 1));
        if (limit !== undefined) rows = rows.slice(0, typeof limit === 'function' ? limit(values) : limit);
        rows.forEach((row) => hold(table, row));
      }
    }
    return held;
  }

  /** @param {string} query @param {Record<string, any>} [params] */
  #complete(query, params = {}) {
    const declared = this.#queries.get(query)?.params ?? [];
    return Object.fromEntries(declared.map(([name, { fallback }]) => [name, params[name] ?? fallback ?? null]));
  }
}

/**
 * The changes that bring a client from one state to another.
 * @param {Record<string, TableRules>} tables
 * @param {Held} before
 * @param {Held} after
 */
export function changesOf(tables, before, after) {
  const changes = [];
  for (const [at, { table, row }] of before) {
    if (after.has(at)) continue;
    changes.push({ op: 'delete', table, row: Object.fromEntries(tables[table].key.map((column) => [column, row[column]])) });
  }
  for (const [at, { table, row }] of after) {
    if (before.get(at)?.row !== row) changes.push({ op: 'put', table, row });
  }
  return changes;
}
