/**
 * The operations of a mutation, in the form of the protocol. Each is on one row, or calls what the server has
 * under a name. The client applies those on rows to its own rows, to show at once what the server will do; it does not know
 * the server's rules and triggers, nor what a call does.
 */
import { RowtideError } from './error.js';

/** The most operations in one mutation, as the protocol has it. */
const MAX_OPS = 500;
/** The largest mutation, in bytes of JSON. A message may have 1 MiB; the difference is for its other fields. */
const MAX_BYTES = (1 << 20) - 256;
/** How deep a value may be nested. Parsers of JSON have limits that are somewhat higher. */
const MAX_DEPTH = 100;

/**
 * @typedef {Record<string, any>} Row
 * @typedef {{ op: 'insert' | 'update' | 'delete', table: string, row: Row }} RowOp
 * @typedef {{ op: 'call', name: string, args: Record<string, any> }} CallOp
 * @typedef {RowOp | CallOp} Op
 */

/**
 * Whether two values of JSON are equal.
 * @param {any} a
 * @param {any} b
 * @returns {boolean}
 */
export function same(a, b) {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || !a || !b) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  if (names.length !== Object.keys(b).length) return false;
  return names.every((name) => name in b && same(a[name], b[name]));
}

/**
 * @param {any} value
 * @param {number} levels
 * @returns {boolean}
 */
function within(value, levels) {
  if (typeof value !== 'object' || !value) return true;
  return levels > 0 && Object.values(value).every((part) => within(part, levels - 1));
}

/**
 * The row after an operation. An insert of a row that is there updates it; an update of a row that is not
 * there does nothing.
 * @param {Row | undefined} row
 * @param {RowOp} op
 * @param {Row} [defaults] what a new row has in the columns that the insert leaves out
 */
export function applied(row, op, defaults) {
  if (op.op === 'delete' || (op.op === 'update' && !row)) return undefined;
  return { ...(row ?? defaults), ...op.row };
}

/**
 * What stands for a column of a key that the server makes, until it has: which insert it is of, by the id of its mutation
 * and its place in it.
 * @param {string} id
 * @param {number} at
 * @param {string} column
 */
export const temporary = (id, at, column) => `$new:${id}:${at}:${column}`;

/** A temporary key: ids of mutations are 32 hexadecimal digits. */
const TEMPORARY = /^\$new:([0-9a-f]{32}):(\d{1,3}):(.+)$/s;

/**
 * The insert and the column that a temporary key is of.
 * @param {any} value
 * @returns {[id: string, at: number, column: string] | undefined} nothing if the value is none
 */
export function insertOf(value) {
  // What somebody types is no key, however it begins.
  const parts = typeof value === 'string' && TEMPORARY.exec(value);
  return parts ? [parts[1], Number(parts[2]), parts[3]] : undefined;
}

/** @param {Op} op */
const valuesOf = (op) => (op.op === 'call' ? op.args : op.row);

/**
 * The operation with other values: `undefined` leaves one out.
 * @template {Op} T
 * @param {T} op
 * @param {(value: any, column: string) => any} other
 * @returns {T} the same object if no value is another
 */
export function withValues(op, other) {
  const values = valuesOf(op);
  const others = Object.entries(values).map(([name, value]) => [name, other(value, name)]);
  if (others.every(([name, value]) => value === values[name])) return op;
  const kept = Object.fromEntries(others.filter(([, value]) => value !== undefined));
  return { ...op, [op.op === 'call' ? 'args' : 'row']: kept };
}

/** How many bytes a JSON has in UTF-8. React Native has no `TextEncoder`. @param {string} json */
export const bytesOf = (json) => encodeURIComponent(json).replace(/%../g, '-').length;

/**
 * @param {string} code
 * @param {string} message
 * @returns {never}
 */
function reject(code, message) {
  throw new RowtideError(code, message);
}

/**
 * @param {Op[]} ops of one mutation
 * @param {(table: string) => readonly string[] | undefined} keyOf the columns of a table's key
 * @throws {RowtideError} when the server could not accept them
 */
export function check(ops, keyOf) {
  if (!ops.length || ops.length > MAX_OPS) {
    reject('too_large', `a mutation has 1 to ${MAX_OPS} operations, not ${ops.length}`);
  }
  for (const op of ops) {
    const name = op.op === 'call' ? op.name : op.table;
    const values = valuesOf(op);
    // The server checks the tables that are not known here.
    const column = op.op !== 'call' && keyOf(name)?.find((column) => values[column] === undefined);
    if (column) reject('bad_request', `\`${name}\` needs the key column \`${column}\``);
    if (!within(values, MAX_DEPTH + 1)) {
      reject('bad_request', `a value for \`${name}\` has more than ${MAX_DEPTH} levels`);
    }
  }
  const bytes = bytesOf(JSON.stringify(ops));
  if (bytes > MAX_BYTES) reject('too_large', `a mutation has at most ${MAX_BYTES} bytes, not ${bytes}`);
}
