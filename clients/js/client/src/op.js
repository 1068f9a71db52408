/**
 * What a mutation is made of: operations on single rows, as they travel. Applied to rows that a client
 * holds they show at once what the server will do, as far as that can be known without its rules and
 * triggers.
 */
import { RowtideError } from './error.js';

/** The most operations in one mutation, as the protocol has it. */
const MAX_OPS = 500;
/** The largest mutation in bytes: a message may have 1 MiB, of which this leaves a little for the rest. */
const MAX_BYTES = (1 << 20) - 256;
/** How deep a value may be nested: readers of JSON give up somewhat later. */
const MAX_DEPTH = 100;

/**
 * @typedef {Record<string, any>} Row
 * @typedef {{ op: 'insert' | 'update' | 'delete', table: string, row: Row }} Op
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
 * An insert over a row is an update of it, an update of a row that is not there does nothing.
 * @param {Row | undefined} row
 * @param {Op} op
 */
export function applied(row, op) {
  if (op.op === 'delete' || (op.op === 'update' && !row)) return undefined;
  return { ...row, ...op.row };
}

/**
 * @param {string} code
 * @param {string} message
 * @returns {never}
 */
function refuse(code, message) {
  throw new RowtideError(code, message);
}

/**
 * @param {Op[]} ops of one mutation
 * @param {(table: string) => string[] | undefined} keyOf the columns of a table's key
 * @throws {RowtideError} when the server could not take them
 */
export function check(ops, keyOf) {
  if (ops.length < 1 || ops.length > MAX_OPS) {
    refuse('too_large', `a mutation has 1 to ${MAX_OPS} operations, not ${ops.length}`);
  }
  for (const { table, row } of ops) {
    // What is not known here is for the server to judge.
    const column = keyOf(table)?.find((column) => row[column] === undefined);
    if (column) refuse('bad_request', `an operation on table \`${table}\` needs the key column \`${column}\``);
    if (!within(row, MAX_DEPTH + 1)) {
      refuse('bad_request', `a value for table \`${table}\` is nested more than ${MAX_DEPTH} levels deep`);
    }
  }
  const bytes = new TextEncoder().encode(JSON.stringify(ops)).length;
  if (bytes > MAX_BYTES) refuse('too_large', `the mutation has ${bytes} bytes; at most ${MAX_BYTES} can be sent`);
}
