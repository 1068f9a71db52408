/**
 * What a query makes of rows: those that match, in an order, the first of them, how many they are. Each is kept change by
 * change: a row is put into its place by a search, the next row comes where one has left the first ones, and counts go up
 * and down.
 */
import { Bucket, Index, textOf } from './indexed.js';
import { Node, Rows } from './nodes.js';
import { comparing } from './order.js';
import { report } from './query.js';

/** @typedef {import('./op.js').Row} Row */
/** @typedef {import('./optimistic.js').Change} Change */
/** @typedef {import('./nodes.js').Nodes} Nodes */
/** @typedef {import('./nodes.js').Entries} Entries */

/** From how many changes on a step merges them into an order, and does not place one after the other. */
const MERGED_CHANGES = 32;

/** The rows that match. */
class Matching extends Rows {
  /** @type {Map<string, Row>} */
  #rows = new Map();
  #matches;

  /**
   * @param {Rows} parent
   * @param {(row: Row) => boolean} matches
   */
  constructor(parent, matches) {
    super(parent.of, parent);
    this.#matches = matches;
  }

  entries() {
    return this.#rows;
  }

  get size() {
    return this.#rows.size;
  }

  load() {
    super.load();
    this.#rows = new Map();
    for (const [key, row] of this.parent.entries()) if (this.#matches(row)) this.#rows.set(key, row);
  }

  /** @param {Change[]} changes */
  changed(changes) {
    /** @type {Change[]} */
    const mine = [];
    for (const { table, key, row } of changes) {
      const before = this.#rows.get(key);
      const now = row && this.#isMatch(row) ? row : undefined;
      if (now) this.#rows.set(key, now);
      else this.#rows.delete(key);
      if (now !== before) mine.push({ table, key, row: now, before });
    }
    this.tell(mine);
  }

  /** @param {Row} row */
  #isMatch(row) {
    try {
      return this.#matches(row);
    } catch (error) {
      // An error of the application must not keep the step from the other results.
      report(error);
      return false;
    }
  }
}

/** Rows in an order, each in its place. */
class Ordered extends Rows {
  /** @type {Row[]} */
  #rows = [];
  /** Whether the array has been given away, and must not change any more. */
  #given = false;
  /** @type {readonly string[] | undefined} */
  #key;
  /** @type {(a: Row, b: Row) => number} */
  compare = () => 0;

  /**
   * @param {Rows} parent
   * @param {import('./order.js').OrderColumn[]} order
   */
  constructor(parent, order) {
    super(parent.of, parent);
    this.order = order;
  }

  get size() {
    return this.#rows.length;
  }

  list() {
    this.#given = true;
    return this.#rows;
  }

  /** @param {number} count */
  first(count) {
    return this.#rows.slice(0, count);
  }

  load() {
    super.load();
    this.#key = this.of.table?.key;
    this.compare = comparing(this.order, this.#key ?? []);
    this.#rows = Array.from(/** @type {Entries} */ (this.parent.entries()), ([, row]) => row).sort(this.compare);
    this.#given = false;
  }

  /** @param {Change[]} changes */
  changed(changes) {
    // The order ends in the key, which the server may have changed.
    if (this.#key !== this.of.table?.key) this.load();
    else if (changes.length > MERGED_CHANGES) this.#merge(changes);
    else {
      if (this.#given) this.#rows = this.#rows.slice();
      this.#given = false;
      for (const change of changes) this.#place(change);
    }
    this.tell(changes);
  }

  /** @param {Change} change */
  #place({ row, before }) {
    if (before) {
      const at = this.#at(before);
      if (row && !this.compare(row, before)) {
        this.#rows[at] = row;
        return;
      }
      this.#rows.splice(at, 1);
    }
    if (row) this.#rows.splice(this.#at(row), 0, row);
  }

  /** Where a row stands, or would stand. @param {Row} row */
  #at(row) {
    let [from, to] = [0, this.#rows.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (this.compare(this.#rows[middle], row) < 0) from = middle + 1;
      else to = middle;
    }
    return from;
  }

  /** @param {Change[]} changes */
  #merge(changes) {
    const gone = new Set(changes.map(({ before }) => before));
    const come = changes.flatMap(({ row }) => row ?? []).sort(this.compare);
    /** @type {Row[]} */
    const rows = [];
    let next = 0;
    for (const row of this.#rows) {
      if (gone.has(row)) continue;
      while (next < come.length && this.compare(come[next], row) < 0) rows.push(come[next++]);
      rows.push(row);
    }
    this.#rows = rows.concat(come.slice(next));
    this.#given = false;
  }
}

/** The first rows of an order. */
class First extends Rows {
  /** @type {Map<string, Row>} */
  #rows = new Map();
  #limit;

  /**
   * @param {Ordered} parent
   * @param {number} limit
   */
  constructor(parent, limit) {
    super(parent.of, parent);
    this.#limit = limit;
  }

  entries() {
    return this.#rows;
  }

  get size() {
    return this.#rows.size;
  }

  load() {
    super.load();
    this.#rows = this.#window();
  }

  #window() {
    const { table, shown: { optimistic } } = this.of;
    const rows = /** @type {Row[]} */ (this.parent.first(this.#limit));
    return new Map(rows.map((row) => [(table && optimistic.keyOf(table, row)) ?? '', row]));
  }

  /** @param {Change[]} changes */
  changed(changes) {
    if (this.#rows.size === this.#limit) {
      const last = [...this.#rows.values()].pop();
      const isBehind = (/** @type {Row | undefined} */ row) => !row || !last || this.parent.compare(row, last) > 0;
      if (changes.every(({ row, before }) => isBehind(row) && isBehind(before))) return;
    }
    const left = this.#rows;
    this.#rows = this.#window();
    /** @type {Change[]} */
    const mine = [];
    for (const [key, row] of this.#rows) {
      const before = left.get(key);
      left.delete(key);
      if (row !== before) mine.push({ table: this.of.name, key, row, before });
    }
    for (const [key, before] of left) mine.push({ table: this.of.name, key, row: undefined, before });
    this.tell(mine);
  }
}

/** A value that is computed from rows. @template T */
class Value extends Node {
  /** @param {Rows} parent */
  constructor(parent) {
    super(parent.of, parent);
  }

  /** @type {T} */
  // @ts-expect-error `load` comes before every use
  value;

  get() {
    return this.read().value;
  }

  /** @param {T} value */
  set(value) {
    if (value === this.value) return;
    this.value = value;
    this.ring(value);
  }
}

/** How many rows there are. @extends {Value<number>} */
class Count extends Value {
  load() {
    this.value = this.parent.size;
  }

  changed() {
    this.set(this.parent.size);
  }
}

/** How many rows there are of each value of a column. @extends {Value<ReadonlyMap<any, number>>} */
class GroupCount extends Value {
  /**
   * @param {Rows} parent
   * @param {string} column
   */
  constructor(parent, column) {
    super(parent);
    this.column = column;
  }

  load() {
    const counts = new Map();
    for (const [, row] of /** @type {Entries} */ (this.parent.entries())) this.#add(counts, row, 1);
    this.value = counts;
  }

  /** @param {Change[]} changes */
  changed(changes) {
    const moved = changes.filter(({ row, before }) => !row || !before || this.#group(row) !== this.#group(before));
    if (!moved.length) return;
    const counts = new Map(this.value);
    for (const { row, before } of moved) {
      if (before) this.#add(counts, before, -1);
      if (row) this.#add(counts, row, 1);
    }
    // Rows that change places leave the counts as they are.
    const isSame = counts.size === this.value.size && [...counts].every(([group, count]) => this.value.get(group) === count);
    if (!isSame) this.set(counts);
  }

  /** @param {Row} row */
  #group(row) {
    const value = row[this.column] ?? null;
    return typeof value === 'object' && value ? textOf(value) : value;
  }

  /**
   * @param {Map<any, number>} counts
   * @param {Row} row
   * @param {number} by
   */
  #add(counts, row, by) {
    const group = this.#group(row);
    const count = (counts.get(group) ?? 0) + by;
    if (count) counts.set(group, count);
    else counts.delete(group);
  }
}

/** Numbers for functions, which have no text. @type {WeakMap<Function, number>} */
const numbers = new WeakMap();
let lastNumber = 0;

/** @param {Function} matches */
function numberOf(matches) {
  let number = numbers.get(matches);
  if (!number) numbers.set(matches, (number = ++lastNumber));
  return number;
}

/**
 * What a query asks for.
 * @typedef {{ columns: Row, matches: ((row: Row) => boolean)[], order?: import('./order.js').OrderColumn[], limit?: number }} Asked
 */

/**
 * The node of a query's rows.
 * @param {Nodes} of
 * @param {Asked} asked
 * @returns {Rows}
 */
export function rowsOf(of, { columns, matches, order, limit }) {
  /** @type {Rows} */
  let rows = of.root;
  const names = Object.keys(columns).sort();
  if (names.length) {
    const text = JSON.stringify(names);
    const values = names.map((name) => textOf(columns[name])).join();
    rows = of.node(`${text}${values}`, () => new Bucket(of.node(text, () => new Index(of, names)), values));
  }
  for (const match of matches) {
    const parent = rows;
    rows = of.node(`${parent.text}|${numberOf(match)}`, () => new Matching(parent, match));
  }
  if (!order && limit === undefined) return rows;
  const parent = rows;
  const ordered = of.node(`${parent.text}^${JSON.stringify(order ?? [])}`, () => new Ordered(parent, order ?? []));
  return limit === undefined ? ordered : of.node(`${ordered.text}<${limit}`, () => new First(ordered, limit));
}

/**
 * @param {Rows} rows
 * @returns {Value<number>}
 */
export function countOf(rows) {
  return rows.of.node(`${rows.text}#`, () => new Count(rows));
}

/**
 * @param {Rows} rows
 * @param {string} column
 * @returns {Value<ReadonlyMap<any, number>>}
 */
export function groupCountOf(rows, column) {
  return rows.of.node(`${rows.text}#${JSON.stringify(column)}`, () => new GroupCount(rows, column));
}
