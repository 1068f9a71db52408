/**
 * Rows that are given with the page. A server has no copy, so it renders these, and the browser's first render must be the
 * same. After that they stand in for a table until the client has rows of it, or is up to date.
 */

/** @typedef {Record<string, any>} Row */

/** What a query has where nothing is given. @type {readonly Row[]} */
const NONE = [];

/**
 * @param {() => void} one
 * @param {() => void} other
 */
export const both = (one, other) => () => {
  one();
  other();
};

export class GivenRows {
  #client;
  #rows;
  #isOver = false;

  /**
   * @param {any} client
   * @param {Record<string, readonly Row[]>} [rows] by table
   */
  constructor(client, rows) {
    this.#client = client;
    this.#rows = rows;
  }

  /**
   * @param {string | undefined} table
   * @param {any} [where] a predicate, or columns with their values
   * @returns {readonly Row[]}
   */
  of(table, where) {
    const rows = table === undefined ? undefined : this.#rows?.[table];
    if (!rows || where === undefined) return rows ?? NONE;
    if (typeof where === 'function') return rows.filter(where);
    const columns = Object.entries(where);
    return rows.filter((row) => columns.every(([column, value]) => JSON.stringify(row[column]) === JSON.stringify(value)));
  }

  /** Whether the given rows of a table are shown no more. @param {string | undefined} table */
  isOver(table) {
    if (table === undefined) return true;
    this.#isOver ||= !this.#rows || this.#client.status.get().connection === 'live';
    return this.#isOver || this.#client.table(table).all().length > 0;
  }

  /**
   * Calls `listener` when `isOver` may have changed.
   * @param {string | undefined} table
   * @param {() => void} listener
   * @returns {() => void}
   */
  subscribe(table, listener) {
    if (table === undefined || !this.#rows || this.#isOver) return () => {};
    return both(this.#client.status.subscribe(listener), this.#client.table(table).subscribe(listener));
  }
}
