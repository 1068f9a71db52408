/**
 * Tables and queries over the shown rows, for an application to read. A query here searches its table when it
 * is read after its rows have changed; queries.js has those that keep their results. Listeners are called once
 * for each step, after every table and query has the step.
 */
import { lacking } from './error.js';
import { same } from './op.js';

/** @typedef {import('./op.js').Row} Row */
/** @typedef {import('./optimistic.js').Change} Change */
/** @typedef {(row: Row) => boolean} Matches */
/** @typedef {{ name: string, changed: (changes: Change[]) => () => void }} Kept takes the changes of a table in, and returns what calls its listeners */

/** @param {unknown} error that nobody catches */
export function report(error) {
  if (globalThis.reportError) return globalThis.reportError(error);
  return queueMicrotask(() => {
    throw error;
  });
}

/** A promise with what settles it. If nobody handles its rejection, that is not an error of the page. */
export function promised() {
  /** @type {(value?: any) => void} */
  let resolve = () => {};
  /** @type {(error?: Error) => void} */
  let reject = () => {};
  const promise = new Promise((...settle) => ([resolve, reject] = settle));
  promise.catch(() => {});
  return { promise, resolve, reject };
}

/** Calls listeners one after the other. Calls that a listener causes come after those that wait already. */
export class Bell {
  /** @type {(() => void)[]} */
  #waiting = [];
  #ringing = false;

  /**
   * @template T
   * @param {Iterable<(value: T) => void>} listeners
   * @param {T} value
   */
  ring(listeners, value) {
    for (const listener of listeners) this.#waiting.push(() => listener(value));
    if (this.#ringing) return;
    this.#ringing = true;
    for (let call; (call = this.#waiting.shift()); ) {
      try {
        call();
      } catch (error) {
        // An error of one listener must not keep the others from being called.
        report(error);
      }
    }
    this.#ringing = false;
  }
}

/** A value with listeners. @template T */
export class Observed {
  /** @type {Set<(value: T) => void>} */
  #listeners = new Set();
  #bell;
  #value;

  /**
   * @param {Bell} bell
   * @param {T} value
   */
  constructor(bell, value) {
    this.#bell = bell;
    this.#value = value;
  }

  get = () => this.#value;

  /** @param {T} value */
  set(value) {
    if (same(value, this.#value)) return;
    this.#value = value;
    this.#bell.ring(this.#listeners, value);
  }

  /** @param {(value: T) => void} listener */
  subscribe = (listener) => subscribed(this.#listeners, listener);
}

/**
 * @template T
 * @param {Set<(value: T) => void>} listeners
 * @param {(value: T) => void} listener
 */
export function subscribed(listeners, listener) {
  // Each subscription needs its own function, since one function may subscribe twice.
  const own = (/** @type {T} */ value) => listener(value);
  listeners.add(own);
  return () => {
    listeners.delete(own);
  };
}

/** The shown tables, and the queries that have listeners. */
export class Shown {
  bell = new Bell();
  /** @type {Map<string, Set<Kept>>} */
  #live = new Map();
  /** @type {Map<string, number>} */
  #versions = new Map();
  /** @type {Set<(changes: Change[]) => void>} */
  #listeners = new Set();

  /** @param {import('./optimistic.js').Optimistic} optimistic */
  constructor(optimistic) {
    this.optimistic = optimistic;
  }

  /** @param {string} table */
  rows(table) {
    return this.optimistic.tables.get(table)?.rows ?? new Map();
  }

  /** Grows with each step that changes the table's shown rows. @param {string} table */
  version(table) {
    return this.#versions.get(table) ?? 0;
  }

  /**
   * @param {Kept} query
   * @param {boolean} live
   */
  keep(query, live) {
    const queries = this.#live.get(query.name) ?? new Set();
    this.#live.set(query.name, queries);
    if (live) queries.add(query);
    else queries.delete(query);
  }

  /** @param {(changes: Change[]) => void} listener */
  subscribe(listener) {
    return subscribed(this.#listeners, listener);
  }

  /** @param {Change[]} changes of one step */
  changed(changes) {
    if (!changes.length) return;
    /** @type {Map<string, Change[]>} */
    const byTable = new Map();
    for (const change of changes) {
      const of = byTable.get(change.table) ?? [];
      byTable.set(change.table, of);
      of.push(change);
    }
    /** @type {(() => void)[]} */
    const calls = [];
    for (const [table, changes] of byTable) {
      this.#versions.set(table, this.version(table) + 1);
      for (const query of this.#live.get(table) ?? []) calls.push(query.changed(changes));
    }
    this.bell.ring(this.#listeners, changes);
    for (const call of calls) call();
  }
}

/** The rows of a table that match. */
export class Query {
  /** @type {Row[]} */
  #all = [];
  /** The version of the table that the rows are of. */
  #version = -1;
  /** @type {Set<(changes: Change[]) => void>} */
  #listeners = new Set();

  /**
   * @param {Shown} shown
   * @param {string} name the table's
   * @param {Matches} [matches] all rows, if there is none
   */
  constructor(shown, name, matches = () => true) {
    this.shown = shown;
    this.name = name;
    this.matches = matches;
  }

  /** @returns {Row[]} */
  all() {
    const version = this.shown.version(this.name);
    if (this.#version !== version) this.#all = [...this.shown.rows(this.name).values()].filter(this.matches);
    this.#version = version;
    return this.#all;
  }

  /** @param {(changes: Change[]) => void} listener */
  subscribe(listener) {
    const unsubscribe = subscribed(this.#listeners, listener);
    this.shown.keep(this, true);
    return () => {
      unsubscribe();
      this.shown.keep(this, !!this.#listeners.size);
    };
  }

  /** @param {any} _condition @returns {any} */
  where(_condition) {
    throw lacking('queries');
  }

  /** @param {any} [_order] @returns {any} */
  orderBy(_order) {
    throw lacking('queries');
  }

  /** @param {any} [_limit] @returns {any} */
  limit(_limit) {
    throw lacking('queries');
  }

  /** @returns {any} */
  count() {
    throw lacking('queries');
  }

  /** @param {any} [_column] @returns {any} */
  groupCount(_column) {
    throw lacking('queries');
  }

  /**
   * @param {Change[]} changes of rows of the table
   * @returns {() => void} calls the listeners
   */
  changed(changes) {
    const shown = (/** @type {Row | undefined} */ row) => (row && this.matches(row) ? row : undefined);
    const mine = changes
      .map((change) => ({ ...change, row: shown(change.row), before: shown(change.before) }))
      .filter(({ row, before }) => row || before);
    // The rows are those of this version too, if they were those of the last.
    this.#version = mine.length ? -1 : this.#version + 1;
    return () => {
      if (mine.length) this.shown.bell.ring(this.#listeners, mine);
    };
  }
}

/** All rows of a table. */
export class TableQuery extends Query {
  /**
   * @param {any} key the value of its one column, or an object with all of them
   * @returns {Row | undefined}
   */
  get(key) {
    return this.shown.rows(this.name).get(this.keyOf(key));
  }

  /**
   * Whether a pending mutation has an operation on this row.
   * @param {any} key as for `get`
   */
  isPending(key) {
    return !!this.shown.optimistic.tables.get(this.name)?.layers.has(this.keyOf(key));
  }

  /**
   * The key as changes have it.
   * @param {any} key as for `get`
   * @returns {any} a string, or nothing if a column is missing
   */
  keyOf(key) {
    const table = this.shown.optimistic.tables.get(this.name);
    return table && this.shown.optimistic.keyOf(table, keyRow(table.key, key));
  }

  /**
   * @param {Matches | Row} condition
   * @returns {Query}
   */
  where(condition) {
    const columns = Object.entries(condition);
    const matches = (/** @type {Row} */ row) => columns.every(([column, value]) => same(row[column] ?? null, value));
    return new Query(this.shown, this.name, typeof condition === 'function' ? /** @type {Matches} */ (condition) : matches);
  }
}

/**
 * @param {readonly string[]} columns of the primary key
 * @param {any} key
 * @returns {Row}
 */
export function keyRow(columns, key) {
  if (typeof key !== 'object' || key === null) return { [columns[0]]: key };
  return Object.fromEntries(columns.map((column) => [column, key[column]]));
}
