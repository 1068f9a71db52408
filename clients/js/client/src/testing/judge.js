/**
 * Whether a mutation of a client may be done, as the server decides it: what an operation may name, which rows its
 * user may see, what the rules say, in the server's order and with its codes. All of a mutation is done, or nothing.
 * A function of the definition that fails by mistake (a `TypeError`, say) rejects the mutation with `unknown_error`,
 * and the test learns of it.
 */
import { RowtideError } from '../error.js';

/**
 * @typedef {import('../op.js').Row} Row
 * @typedef {import('./database.js').Auth} Auth
 * @typedef {import('./database.js').TableRules} TableRules
 * @typedef {{ id: number, op: number, key: Row }} MadeKey
 * @typedef {(tx: any, args: Record<string, any>, auth: Auth, db: import('./database.js').Db) => void} Call
 */

/** The most operations of one mutation. */
const MAX_OPS = 500;
/** What a code of an application looks like. */
const CODE = /^[a-z][a-z0-9_]{0,63}$/;
/** Errors that are mistakes of the definition, and no decision of it. */
const MISTAKES = [TypeError, ReferenceError, RangeError, SyntaxError];

/** @param {string} code @param {string} message @returns {never} */
function reject(code, message) {
  throw new RowtideError(code, message);
}

export class Judge {
  #tables;
  #calls;

  /**
   * @param {Record<string, TableRules>} tables
   * @param {Record<string, Call>} calls
   */
  constructor(tables, calls) {
    this.#tables = tables;
    this.#calls = calls;
  }

  /**
   * Does a mutation.
   * @param {import('./database.js').Transaction} tx
   * @param {Auth} auth
   * @param {{ id: number, ops: any }} mutation
   * @param {(id: number, op: number, column: string) => any} madeBefore a key of an earlier mutation, or it throws
   * @returns {MadeKey[]} the keys that were made
   * @throws {RowtideError} when it is rejected; `cause` is a mistake of the definition
   */
  apply(tx, auth, { id, ops }, madeBefore) {
    if (auth.userId === null) reject('forbidden', 'nobody is signed in');
    if (!Array.isArray(ops) || !ops.length) reject('bad_request', 'a mutation has operations');
    if (ops.length > MAX_OPS) reject('too_large', `a mutation has at most ${MAX_OPS} operations, not ${ops.length}`);
    /** @type {MadeKey[]} */
    const made = [];
    const known = (/** @type {any} */ value) => {
      const reference = referenceOf(value);
      if (!reference) return value;
      const [of, op, column] = reference;
      if (of !== id) return madeBefore(of, op, column);
      const found = made.find((key) => key.op === op)?.key[column];
      return found ?? reject('bad_request', `${JSON.stringify(value)}: no key is known that this is`);
    };
    const each = (/** @type {(op: any, at: number) => void} */ act) => ops.forEach((op, at) => {
      try {
        act(op, at);
      } catch (error) {
        throw said(at, op, error);
      }
    });
    // What could never be done is told before anything is.
    each((op) => this.#read(op));
    each((op, at) => {
      const key = this.#operation(tx, auth, op, known);
      if (key) made.push({ id, op: at, key });
    });
    return made;
  }

  /** Rejects what does not fit the tables, or what the rules never allow, whatever the rows are. @param {any} op */
  #read(op) {
    if (op?.op === 'call') {
      if (!Object.hasOwn(this.#calls, op.name)) reject('bad_request', `there is no mutation \`${op.name}\``);
      return;
    }
    if (!['insert', 'update', 'delete'].includes(op?.op)) reject('bad_request', `there is no operation \`${op?.op}\``);
    const { table, row = {} } = op;
    const rules = Object.hasOwn(this.#tables, table) ? this.#tables[table] : undefined;
    if (!rules?.visible) return reject('bad_request', `there is no table \`${table}\``);
    const isMade = (/** @type {string} */ column) => op.op === 'insert' && Object.hasOwn(rules.defaults ?? {}, column) && row[column] === undefined;
    const missing = rules.key.find((column) => (row[column] ?? null) === null && !isMade(column));
    if (missing) reject('bad_request', `the key column \`${missing}\` of table \`${table}\` is missing`);
    mayName(op.op, table, rules, row);
  }

  /**
   * @param {import('./database.js').Transaction} tx
   * @param {Auth} auth
   * @param {any} op
   * @param {(value: any) => any} known
   * @returns {Row | undefined} the key that was made
   */
  #operation(tx, auth, op, known) {
    if (op.op === 'call') return void this.#call(tx, auth, op, known);
    const { table } = op;
    const rules = this.#tables[table];
    const row = Object.fromEntries(Object.entries(op.row).map(([column, value]) => [column, known(value)]));
    if (op.op === 'insert') return this.#insert(tx, auth, table, rules, row);
    const before = tx.row(table, row);
    if (!before || !rules.visible?.(before, auth, tx.db)) return reject('not_found', `there is no such row in table \`${table}\``);
    if (op.op === 'update') return void update(tx, auth, table, rules, before, row);
    decide(rules.delete?.(before, auth, tx.db), `the rule for deletes from table \`${table}\` says no`);
    return void tx.remove(table, before);
  }

  /**
   * @param {import('./database.js').Transaction} tx
   * @param {Auth} auth
   * @param {string} table
   * @param {TableRules} rules
   * @param {Row} row
   */
  #insert(tx, auth, table, rules, row) {
    const makes = rules.key.some((column) => row[column] === undefined);
    const met = makes ? undefined : tx.row(table, row);
    const no = `the rule for inserts into table \`${table}\` says no, or the key is taken`;
    if (met) {
      if (!rules.visible?.(met, auth, tx.db)) reject('forbidden', no);
      const changed = rules.immutable?.find((column) => !rules.key.includes(column) && row[column] !== undefined && row[column] !== met[column]);
      if (changed) reject('forbidden', `column \`${changed}\` of table \`${table}\` is written by an insert alone`);
      return void update(tx, auth, table, rules, met, row);
    }
    const after = tx.complete(table, row);
    decide(rules.insert?.(after, auth, tx.db), no);
    const stored = tx.insert(table, after);
    return makes ? Object.fromEntries(rules.key.map((column) => [column, stored[column]])) : undefined;
  }

  /**
   * @param {import('./database.js').Transaction} tx
   * @param {Auth} auth
   * @param {any} op
   * @param {(value: any) => any} known
   */
  #call(tx, auth, { name, args = {} }, known) {
    const values = Object.fromEntries(Object.entries(args).map(([param, value]) => [param, known(value)]));
    this.#calls[name](tx.owner, values, auth, tx.db);
  }
}

/**
 * Rejects what the rules never allow, whatever the rows are.
 * @param {'insert' | 'update' | 'delete'} kind
 * @param {string} table
 * @param {TableRules} rules
 * @param {Row} row
 */
function mayName(kind, table, rules, row) {
  const verbs = { insert: 'inserted into', update: 'updated in', delete: 'deleted from' };
  const isNone = kind === 'insert' ? !rules.insert && !rules.update : !rules[kind];
  if (isNone) reject('forbidden', `nothing may be ${verbs[kind]} table \`${table}\``);
  for (const column of Object.keys(row).filter((column) => !rules.key.includes(column))) {
    if (kind === 'delete') reject('bad_request', `a delete takes the columns of the primary key alone: \`${column}\` of table \`${table}\` is not one`);
    if (rules.readonly?.includes(column)) reject('forbidden', `column \`${column}\` of table \`${table}\` is read-only`);
    if (kind === 'update' && rules.immutable?.includes(column)) {
      reject('forbidden', `column \`${column}\` of table \`${table}\` is written by an insert alone`);
    }
  }
}

/**
 * @param {import('./database.js').Transaction} tx
 * @param {Auth} auth
 * @param {string} table
 * @param {TableRules} rules
 * @param {Row} before
 * @param {Row} row
 */
function update(tx, auth, table, rules, before, row) {
  const after = { ...before, ...row };
  decide(rules.update?.(before, after, auth, tx.db), `the rules for updates of table \`${table}\` say no`);
  tx.put(table, before, after);
}

/** @param {boolean | string | undefined} verdict of a rule; a text is the code of a limit @param {string} no */
function decide(verdict, no) {
  if (typeof verdict === 'string') reject(verdict, 'no more are allowed');
  if (!verdict) reject('forbidden', no);
}

/** @param {any} value @returns {[number, number, string] | undefined} what it refers to, if it does */
function referenceOf(value) {
  const of = typeof value === 'object' && value && Object.keys(value).length === 1 && value.$key;
  const [id, op, column] = Array.isArray(of) && of.length === 3 ? of : [];
  return Number.isInteger(id) && Number.isInteger(op) && typeof column === 'string' ? [id, op, column] : undefined;
}

/**
 * The rejection that an error means.
 * @param {number} at which operation
 * @param {any} op
 * @param {any} error
 */
function said(at, op, error) {
  const isMistake = MISTAKES.some((kind) => error instanceof kind);
  const code = isMistake ? 'unknown_error' : CODE.test(error?.code ?? '') ? error.code : op?.op === 'call' ? 'rejected' : 'constraint';
  const message = isMistake || error instanceof RowtideError && op?.op !== 'call' ? `ops[${at}]: ${error.message}` : `${error?.message ?? error}`;
  return Object.assign(new RowtideError(code, message), isMistake && { cause: error });
}
