/**
 * Rows by the values of some columns. A table has an index for each set of columns that queries ask for values of, made by
 * the first of them and shared by all; it goes with the last one. A changed row reaches only the queries that ask for the
 * values that it has, or had.
 */
import { Node, Rows } from './nodes.js';

/** @typedef {import('./op.js').Row} Row */
/** @typedef {import('./optimistic.js').Change} Change */

/** The rows of a table by the values of some columns. */
export class Index extends Node {
  /** @type {Map<string, Map<string, Row>>} */
  rows = new Map();
  /** @type {Map<string, Set<Node>>} */
  #takers = new Map();

  /**
   * @param {import('./nodes.js').Nodes} of
   * @param {string[]} columns
   */
  constructor(of, columns) {
    super(of, of.root);
    this.columns = columns;
  }

  load() {
    this.rows = new Map();
    for (const [key, row] of this.parent.entries()) this.#bucket(valuesOf(this.columns, row)).set(key, row);
  }

  /** @param {string} values */
  #bucket(values) {
    let bucket = this.rows.get(values);
    if (!bucket) this.rows.set(values, (bucket = new Map()));
    return bucket;
  }

  /** @param {Change[]} changes */
  changed(changes) {
    /** @type {Map<string, Change[]>} */
    const byValues = new Map();
    const note = (/** @type {string} */ values, /** @type {Change} */ change) => {
      const noted = byValues.get(values);
      if (noted) noted.push(change);
      else byValues.set(values, [change]);
    };
    for (const change of changes) {
      const { table, key, row, before } = change;
      const was = before && valuesOf(this.columns, before);
      const is = row && valuesOf(this.columns, row);
      if (was !== undefined && was !== is) {
        const bucket = this.#bucket(was);
        bucket.delete(key);
        if (!bucket.size) this.rows.delete(was);
        note(was, { table, key, row: undefined, before });
      }
      if (is === undefined) continue;
      this.#bucket(is).set(key, /** @type {Row} */ (row));
      note(is, was === is ? change : { table, key, row, before: undefined });
    }
    for (const [values, changes] of byValues) for (const taker of this.#takers.get(values) ?? []) taker.changed(changes);
  }

  /** @param {any} child */
  attach(child) {
    const takers = this.#takers.get(child.values);
    if (takers) takers.add(child);
    else this.#takers.set(child.values, new Set([child]));
  }

  /** @param {any} child */
  detach(child) {
    const takers = this.#takers.get(child.values);
    takers?.delete(child);
    if (!takers?.size) this.#takers.delete(child.values);
  }
}

/** The rows with some values. */
export class Bucket extends Rows {
  /**
   * @param {Index} index
   * @param {string} values
   */
  constructor(index, values) {
    super(index.of, index);
    this.values = values;
  }

  entries() {
    return this.parent.rows.get(this.values) ?? [];
  }

  get size() {
    return this.parent.rows.get(this.values)?.size ?? 0;
  }
}

/** The same text for equal values. @param {any} value @returns {string} */
export function textOf(value) {
  if (typeof value !== 'object' || !value) return `${JSON.stringify(value)}`;
  if (Array.isArray(value)) return `[${value.map(textOf)}]`;
  return `{${Object.keys(value).sort().map((name) => `${JSON.stringify(name)}:${textOf(value[name])}`)}}`;
}

/**
 * @param {string[]} columns
 * @param {Row} row
 */
function valuesOf(columns, row) {
  if (columns.length === 1) return textOf(row[columns[0]] ?? null);
  return columns.map((column) => textOf(row[column] ?? null)).join();
}
