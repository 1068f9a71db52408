/**
 * What an application that orders, limits and counts gives to `createClient`, as `queries`. Queries are built from tables, say
 * what they ask for, and hold nothing: equal ones share what they show, and no query searches the table if an index will do.
 * An entry of its own: who has no use for it does not load it.
 */
import { Nodes } from './nodes.js';
import { same } from './op.js';
import { parseOrder } from './order.js';
import { Observed, TableQuery } from './query.js';
import { countOf, groupCountOf, rowsOf } from './results.js';

/**
 * @typedef {import('./op.js').Row} Row
 * @typedef {import('./optimistic.js').Change} Change
 * @typedef {import('./query.js').Shown} Shown
 * @typedef {import('./results.js').Asked} Asked
 * @typedef {'loading' | 'partial' | 'complete'} QueryStatus
 */

/** Makes the tables of a client. */
export function queries() {
  /**
   * @param {Shown} shown
   * @param {Observed<import('./client.js').Status>} status
   * @param {import('./subscribing.js').Subscriptions} [subscriptions]
   */
  return (shown, status, subscriptions) => {
    const completeness = new Completeness(shown, status, subscriptions);
    return (/** @type {string} */ name) => new LiveTable(shown, name, completeness.observed);
  };
}

/**
 * Whether what is shown is all that there is. `loading`: there are no rows yet, neither stored ones nor from the server.
 * `complete`: the connection has been live since the copy was opened, and every subscription that is in use here has its rows
 * or was refused. Else `partial`. A connection that ends takes nothing away: rows stay complete, as of the last commit that came.
 */
class Completeness {
  #shown;
  #status;
  #subscriptions;
  /** Whether this copy's connection has been live. */
  #wasLive = false;
  /** @type {{ connection?: string, user?: string, cursor?: string }} */
  #last = {};

  /**
   * @param {Shown} shown
   * @param {Observed<import('./client.js').Status>} status
   * @param {import('./subscribing.js').Subscriptions} [subscriptions]
   */
  constructor(shown, status, subscriptions) {
    this.#shown = shown;
    this.#status = status;
    this.#subscriptions = subscriptions;
    this.observed = new Observed(shown.bell, /** @type {QueryStatus} */ ('loading'));
    const look = () => this.#look();
    shown.subscribe(look);
    status.subscribe(look);
    subscriptions?.waiting.subscribe(look);
    look();
  }

  #look() {
    const { connection, user } = this.#status.get();
    const { cursor } = this.#shown.optimistic;
    const last = this.#last;
    this.#last = { connection, user, cursor };
    // Another copy is shown, of another user, or none.
    if (user !== last.user || (last.cursor !== undefined && cursor === undefined)) this.#wasLive = false;
    // A tab that follows another one knows no cursor.
    if (connection === 'live' && last.connection !== 'live') this.#wasLive = true;
    this.observed.set(this.#now(cursor));
  }

  /** @param {string | undefined} cursor @returns {QueryStatus} */
  #now(cursor) {
    if (!this.#wasLive) return cursor === undefined ? 'loading' : 'partial';
    return this.#subscriptions?.waiting.get() ? 'partial' : 'complete';
  }
}

/** A value that a query counts. @template T */
class LiveValue {
  #find;
  #status;
  /** @type {any} */
  #node;

  /**
   * @param {() => any} find
   * @param {Observed<QueryStatus>} status
   */
  constructor(find, status) {
    this.#find = find;
    this.#status = status;
  }

  #current() {
    return this.#node?.isCurrent ? this.#node : (this.#node = this.#find());
  }

  /** @returns {T} */
  get = () => this.#current().get();

  /** @param {(value: T) => void} listener */
  subscribe = (listener) => this.#current().subscribe(listener);

  get status() {
    return this.#status.get();
  }

  /** @param {(status: QueryStatus) => void} listener */
  onStatus(listener) {
    return this.#status.subscribe(listener);
  }
}

/** The rows that a query asks for. */
class LiveQuery {
  #nodes;
  #asked;
  #status;
  /** @type {import('./nodes.js').Rows | undefined} */
  #node;

  /**
   * @param {Nodes} nodes
   * @param {Asked} asked
   * @param {Observed<QueryStatus>} status
   */
  constructor(nodes, asked, status) {
    this.#nodes = nodes;
    this.#asked = asked;
    this.#status = status;
  }

  #current() {
    return this.#node?.isCurrent ? this.#node : (this.#node = rowsOf(this.#nodes, this.#asked));
  }

  /** @param {Partial<Asked>} more */
  #with(more) {
    return new LiveQuery(this.#nodes, { ...this.#asked, ...more }, this.#status);
  }

  /** @param {Row | ((row: Row) => boolean)} condition */
  where(condition) {
    const { columns, matches } = this.#asked;
    if (typeof condition === 'function') return this.#with({ matches: [...matches, /** @type {any} */ (condition)] });
    // Whoever asks for two values of one column asks for nothing.
    const isAsked = (/** @type {string} */ column) => Object.hasOwn(columns, column) && !same(columns[column], condition[column]);
    if (Object.keys(condition).some(isAsked)) return this.#with({ matches: [...matches, nothing] });
    return this.#with({ columns: { ...columns, ...condition } });
  }

  /** @param {any} order */
  orderBy(order) {
    return this.#with({ order: parseOrder(order) });
  }

  /** @param {number} limit */
  limit(limit) {
    if (!Number.isInteger(limit) || limit < 0) throw new TypeError(`\`${limit}\` is no limit: expected a number of rows`);
    return this.#with({ limit });
  }

  /** What is counted: without a limit the order is of no account. */
  #counted() {
    return this.#asked.limit === undefined && this.#asked.order ? this.#with({ order: undefined }).#current() : this.#current();
  }

  /** @returns {LiveValue<number>} */
  count() {
    return new LiveValue(() => countOf(this.#counted()), this.#status);
  }

  /**
   * @param {string} column
   * @returns {LiveValue<ReadonlyMap<any, number>>}
   */
  groupCount(column) {
    return new LiveValue(() => groupCountOf(this.#counted(), column), this.#status);
  }

  all() {
    return this.#current().all();
  }

  /** @param {(changes: Change[]) => void} listener */
  subscribe(listener) {
    return this.#current().subscribe(listener);
  }

  get status() {
    return this.#status.get();
  }

  /** @param {(status: QueryStatus) => void} listener */
  onStatus(listener) {
    return this.#status.subscribe(listener);
  }
}

const nothing = () => false;

/** All rows of a table, and the queries over them. */
class LiveTable extends TableQuery {
  #query;
  #status;

  /**
   * @param {Shown} shown
   * @param {string} name
   * @param {Observed<QueryStatus>} status
   */
  constructor(shown, name, status) {
    super(shown, name);
    this.#status = status;
    this.#query = new LiveQuery(new Nodes(shown, name), { columns: {}, matches: [] }, status);
  }

  /** @param {Row | ((row: Row) => boolean)} condition @returns {any} */
  where(condition) {
    return this.#query.where(condition);
  }

  /** @param {any} order @returns {any} */
  orderBy(order) {
    return this.#query.orderBy(order);
  }

  /** @param {number} limit @returns {any} */
  limit(limit) {
    return this.#query.limit(limit);
  }

  /** @returns {any} */
  count() {
    return this.#query.count();
  }

  /** @param {string} column @returns {any} */
  groupCount(column) {
    return this.#query.groupCount(column);
  }

  get status() {
    return this.#status.get();
  }

  /** @param {(status: QueryStatus) => void} listener */
  onStatus(listener) {
    return this.#status.subscribe(listener);
  }
}
