// Whole numbers of 64 bits with all of their digits. A browser's JSON loses some beyond 2^53, so the client
// is given those of columns, keys and arrays of such as texts of digits, which the server takes as well.

/** Text without so many digits in a row has no such number. */
const MANY_DIGITS = /\d{16}/;

class Digits {
  constructor(text) {
    this.text = text;
  }
}

/** The message with its numbers as texts where a number would lose digits. `tables` are those of the server. */
export function exactly(text, tables) {
  if (!MANY_DIGITS.test(text)) return text;
  let isInexact = false;
  const message = JSON.parse(text, (_, value, context) => {
    if (typeof value !== 'number' || Number.isSafeInteger(value) || !/^-?\d+$/.test(context?.source)) return value;
    isInexact = true;
    return new Digits(context.source);
  });
  if (!isInexact) return text;
  if (message.type === 'snapshot') {
    message.rows = message.rows.map((row) => exactRow(row, columnsOf(message.table, tables)));
  }
  for (const change of message.changes ?? []) change.row = exactRow(change.row, columnsOf(change.table, tables));
  for (const made of message.keys ?? []) made.key = exactRow(made.key, () => true);
  return JSON.stringify(asNumbers(message));
}

/** A WebSocket whose messages come so. */
export function exactSocket(tables) {
  return class extends WebSocket {
    // The client puts what inflates frames before the listener that it has set.
    get onmessage() {
      return super.onmessage;
    }

    set onmessage(listener) {
      super.onmessage = listener && (({ data }) => listener({ data: typeof data === 'string' ? exactly(data, tables) : data }));
    }
  };
}

/** Whether a column of a table has whole numbers of 64 bits, by its name. */
function columnsOf(name, tables) {
  const columns = tables.find((table) => table.name === name)?.columns ?? [];
  const whole = new Set(columns.filter(({ type }) => /^bigint(\[\])*$/.test(type)).map((column) => column.name));
  // A domain over them is told by how its values are written.
  for (const { name: column, kind } of columns) if (kind === 'integer') whole.add(column);
  return (column) => whole.has(column);
}

function exactRow(row, isWhole) {
  const digits = (value) => {
    if (value instanceof Digits) return value.text;
    return Array.isArray(value) ? value.map(digits) : value;
  };
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, isWhole(name) ? digits(value) : value]));
}

/** What is left in JSON and elsewhere is a number as the browser has it. */
function asNumbers(value) {
  if (value instanceof Digits) return Number(value.text);
  if (Array.isArray(value)) return value.map(asNumbers);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, asNumbers(part)]));
}
