/**
 * Tables and queries over the shown rows, for an application to read. While a query has a listener, its
 * result is updated change by change: a step costs as much as it changes, and not as much as the table
 * holds. Listeners are called once for each step, after every table and query has the step.
 */
import { same } from './op.js';

/** @typedef {import('./op.js').Row} Row */
/** @typedef {import('./optimistic.js').Change} Change */
/** @typedef {(row: Row) => boolean} Matches */

/** @param {unknown} error that nobody catches */
function report(error) {
  if (typeof reportError === 'function') return reportError(error);
  return queueMicrotask(() => {
    throw error;
  });
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
    for (let call = this.#waiting.shift(); call; call = this.#waiting.shift()) {
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
  /** @type {Map<string, Set<Query>>} */
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
   * @param {Query} query
   * @param {boolean} live
   */
  keep(query, live) {
    let queries = this.#live.get(query.name);
    if (!queries) this.#live.set(query.name, (queries = new Set()));
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
      const of = byTable.get(change.table);
      if (of) of.push(change);
      else byTable.set(change.table, [change]);
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
  /** The rows by key, while the query has listeners. @type {Map<string, Row> | undefined} */
  #result;
  /** @type {Row[] | undefined} */
  #all;
  #version = -1;
  /** @type {Set<(changes: Change[]) => void>} */
  #listeners = new Set();

  /**
   * @param {Shown} shown
   * @param {string} name the table's
   * @param {Matches} [matches] all rows, if there is none
   */
  constructor(shown, name, matches) {
    this.shown = shown;
    this.name = name;
    this.matches = matches;
  }

  /** @returns {Row[]} */
  all() {
    const version = this.shown.version(this.name);
    if (this.#all && (this.#result || this.#version === version)) return this.#all;
    const rows = [...(this.#result ?? this.shown.rows(this.name)).values()];
    this.#all = this.#result || !this.matches ? rows : rows.filter(this.matches);
    this.#version = version;
    return this.#all;
  }

  /** @param {(changes: Change[]) => void} listener */
  subscribe(listener) {
    if (!this.#listeners.size) {
      if (this.#version !== this.shown.version(this.name)) this.#all = undefined;
      this.#result = this.#select();
      this.shown.keep(this, true);
    }
    const unsubscribe = subscribed(this.#listeners, listener);
    return () => {
      unsubscribe();
      if (this.#listeners.size) return;
      this.#version = this.shown.version(this.name);
      this.#result = undefined;
      this.shown.keep(this, false);
    };
  }

  #select() {
    const rows = this.shown.rows(this.name);
    if (!this.matches) return rows;
    const result = new Map();
    for (const [key, row] of rows) if (this.matches(row)) result.set(key, row);
    return result;
  }

  /**
   * @param {Change[]} changes of rows of the table
   * @returns {() => void} calls the listeners
   */
  changed(changes) {
    const { matches } = this;
    let mine = changes;
    if (matches) {
      const result = this.#result ?? new Map();
      mine = [];
      for (const { table, key, row } of changes) {
        const before = result.get(key);
        const now = row && matches(row) ? row : undefined;
        if (now) result.set(key, now);
        else result.delete(key);
        if (now !== before) mine.push({ table, key, row: now, before });
      }
    } else {
      // The table may be another object than before.
      this.#result = this.shown.rows(this.name);
    }
    if (mine.length) this.#all = undefined;
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
    const at = this.#at(key);
    return at === undefined ? undefined : this.shown.rows(this.name).get(at);
  }

  /**
   * Whether a pending mutation has an operation on this row.
   * @param {any} key as for `get`
   */
  isPending(key) {
    const at = this.#at(key);
    return at !== undefined && !!this.shown.optimistic.tables.get(this.name)?.layers.has(at);
  }

  /** @param {any} key */
  #at(key) {
    const table = this.shown.optimistic.tables.get(this.name);
    return table && this.shown.optimistic.keyOf(table, keyRow(table.key, key));
  }

  /**
   * @param {Matches | Row} condition
   * @returns {Query}
   */
  where(condition) {
    if (typeof condition === 'function') return new Query(this.shown, this.name, /** @type {Matches} */ (condition));
    const columns = Object.entries(condition);
    return new Query(this.shown, this.name, (row) => columns.every(([column, value]) => same(row[column], value)));
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
