/**
 * The order that rows are put in: the one that the server's windows have, as far as values show which type they are of. Text
 * is compared by its bytes, times as times, and the numbers beside `NaN` and the infinite ones as Postgres does. An order ends
 * in the table's key, in the direction of its last column, so that no two rows stand at one place.
 */

/** @typedef {import('./op.js').Row} Row */
/** @typedef {{ column: string, descending: boolean, nullsFirst: boolean, numeric: boolean }} OrderColumn */

/** A time with a zone, which the server writes in UTC. */
const INSTANT = /^[+-]?\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;
/** A year before 1 or after 9999. */
const FAR_YEAR = /^([+-])(\d{6})(-\d\d-\d\d.*)$/s;
const LAST_YEAR = 999_999;
const DIGITS = /^-?0*(\d*?)(?:\.(\d*?)0*)?$/;

/**
 * @param {any} order a column, or columns, each with its direction where it has one
 * @returns {OrderColumn[]}
 * @throws {TypeError}
 */
export function parseOrder(order) {
  return (Array.isArray(order) ? order : [order]).map((part) => {
    const [column, direction = 'asc', { nulls, numeric = false } = /** @type {any} */ ({})] = Array.isArray(part) ? part : [part];
    const isKnown = ['asc', 'desc'].includes(direction) && [undefined, 'first', 'last'].includes(nulls);
    if (typeof column !== 'string' || !isKnown) {
      throw new TypeError(`\`${JSON.stringify(part)}\` is no order: expected a column, or [column, 'asc' | 'desc', { nulls, numeric }]`);
    }
    const descending = direction === 'desc';
    return { column, descending, nullsFirst: nulls ? nulls === 'first' : descending, numeric };
  });
}

/**
 * @param {OrderColumn[]} order
 * @param {readonly string[]} key the columns of the table's key
 * @returns {(a: Row, b: Row) => number}
 */
export function comparing(order, key) {
  const { descending = false } = order[order.length - 1] ?? {};
  // Numbers that are equal may be written differently in two keys.
  const rest = key.filter((column) => !order.some((part) => part.column === column && !part.numeric));
  const parts = [...order, ...rest.map((column) => ({ column, descending, nullsFirst: false, numeric: false }))];
  return (a, b) => {
    for (const { column, descending, nullsFirst, numeric } of parts) {
      const x = a[column] ?? null;
      const y = b[column] ?? null;
      if (x === y) continue;
      if (x === null || y === null) return (x === null) === nullsFirst ? -1 : 1;
      const compared = numeric ? compareNumbers(x, y) : compareValues(x, y);
      if (compared) return descending ? -compared : compared;
    }
    return 0;
  };
}

/** Values of one class are compared with each other; classes stand one behind the other. @param {any} value */
function classOf(value) {
  if (typeof value === 'object') return 3;
  // What stands for a key that is not made yet comes behind those that are.
  if (typeof value === 'string' && value.startsWith('$new:')) return 2;
  return typeof value === 'boolean' ? 0 : 1;
}

/**
 * @param {any} a
 * @param {any} b
 * @returns {number} below 0, 0, or above 0
 */
export function compareValues(a, b) {
  if (a === b) return 0;
  const of = classOf(a);
  const other = classOf(b);
  if (of !== other) return of - other;
  if (of === 3) return compareText(JSON.stringify(a), JSON.stringify(b));
  if (typeof a === 'string' && typeof b === 'string') return compareText(standing(a), standing(b)) || compareText(a, b);
  // Of a `float8` only `-Infinity`, `Infinity` and `NaN` are strings: all numbers stand behind the first.
  if (typeof a === 'string') return compareText(standing(a), '-Infinity') > 0 ? 1 : -1;
  if (typeof b === 'string') return compareText(standing(b), '-Infinity') > 0 ? -1 : 1;
  return a < b ? -1 : 1;
}

/**
 * Compares texts by their bytes in UTF-8. Code units are in another order: those of pairs stand before the last ones.
 * @param {string} a
 * @param {string} b
 */
function compareText(a, b) {
  const length = Math.min(a.length, b.length);
  for (let at = 0; at < length; at++) {
    const x = a.charCodeAt(at);
    const y = b.charCodeAt(at);
    if (x !== y) return x >= 0xd800 && y >= 0xd800 ? placed(x) - placed(y) : x - y;
  }
  return a.length - b.length;
}

/** @param {number} unit of UTF-16, from 0xd800 */
const placed = (unit) => (unit < 0xe000 ? unit + 0x2000 : unit - 0x800);

/** The text by whose bytes a text stands: times that are written with a zone, a fraction, or far years stand as times. @param {string} text */
function standing(text) {
  const last = text.length - 1;
  const isInstant = text.charCodeAt(last) === 0x5a && INSTANT.test(text);
  const time = isInstant ? text.slice(0, last) : text;
  const sign = time[0];
  if (sign !== '+' && sign !== '-') return time;
  if (time === '-infinity') return '-';
  const far = FAR_YEAR.exec(time);
  if (!far) return time;
  // The sign of later years stands behind all digits, and earlier years count backwards.
  return sign === '+' ? `:${time.slice(1)}` : `-${String(LAST_YEAR - Number(far[2])).padStart(6, '0')}${far[3]}`;
}

/**
 * Compares numbers that may be strings of digits, all digits of them.
 * @param {any} a
 * @param {any} b
 */
function compareNumbers(a, b) {
  const [x, y] = [Number(a), Number(b)];
  if (x < y) return -1;
  if (x > y) return 1;
  // Nothing is above what is not a number.
  if (Number.isNaN(x) || Number.isNaN(y)) return Number(Number.isNaN(x)) - Number(Number.isNaN(y)) || compareValues(a, b);
  const [left, right] = [DIGITS.exec(a), DIGITS.exec(b)];
  if (!left || !right) return Number(!left) - Number(!right);
  const size = left[1].length - right[1].length || compareText(left[1], right[1]) || compareText(left[2] ?? '', right[2] ?? '');
  return x < 0 ? -size : size;
}
