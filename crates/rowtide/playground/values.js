// Values of columns for people: how one is shown and read back, and what a new row may begin with.
// Nothing here knows a table; all of it goes by the columns' types and by the rows that are there.

const SHORT_TYPES = [
  ['character varying', 'varchar'],
  ['timestamp with time zone', 'timestamptz'],
  ['timestamp without time zone', 'timestamp'],
  ['time without time zone', 'time'],
  ['double precision', 'float8'],
  ['character', 'char'],
];

/** The type in few letters. */
export function shortType(type) {
  const found = SHORT_TYPES.find(([long]) => type.startsWith(long));
  return found ? type.replace(found[0], found[1]) : type;
}

/** A value as a line of text. */
export function show(value) {
  if (value === null || value === undefined) return 'null';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** As `show`, but of a UUID both ends alone: nobody reads the rest. */
export function brief(column, value) {
  const text = show(value);
  return column.kind === 'uuid' && value ? `${text.slice(0, 8)}…${text.slice(-6)}` : text;
}

/** A value as text to be edited. */
export function toText(value) {
  return value === null || value === undefined ? '' : show(value);
}

/** The value that `text` stands for in `column`; throws an error with what is wrong. */
export function fromText(column, text) {
  switch (column.kind) {
    case 'boolean':
      if (['true', 'false'].includes(text)) return text === 'true';
      throw new Error('true or false is expected');
    case 'integer':
      if (!/^\s*[-+]?\d+\s*$/.test(text)) throw new Error('a whole number is expected');
      // The server takes its digits as a text.
      return Number.isSafeInteger(Number(text)) ? Number(text) : String(BigInt(text.trim().replace(/^\+/, '')));
    case 'float':
      if (['NaN', 'Infinity', '-Infinity'].includes(text)) return text;
      if (text.trim() === '' || Number.isNaN(Number(text))) throw new Error('a number is expected');
      return Number(text);
    case 'array':
    case 'json':
      try {
        return JSON.parse(text);
      } catch {
        throw new Error(column.kind === 'array' ? 'an array is expected, such as ["a", "b"]' : 'JSON is expected');
      }
    default:
      return text;
  }
}

/**
 * A row of `table` to begin with, for a user among `people`: for each column a value, or `undefined`
 * where one need not be given.
 */
export function suggestRow(table, rows, user, people) {
  const row = {};
  for (const column of table.columns) {
    if (column.readonly) continue;
    row[column.name] = suggest(table, column, rows, user, people);
  }
  return row;
}

function suggest(table, column, rows, user, people) {
  const isKey = table.key.includes(column.name);
  if (column.isUser) return user;
  // A key has to be given, whatever the database would choose.
  if (!isKey && (column.hasDefault || !column.notNull)) return undefined;
  const values = rows.map((row) => row[column.name]).filter((value) => value !== null && value !== undefined);
  // It holds people: whoever writes the row is likely to be the next.
  if (values.some((value) => people.includes(value))) return user;
  const areDistinct = values.length > 1 && new Set(values).size === values.length;
  switch (column.kind) {
    case 'boolean':
      return commonest(values) ?? false;
    case 'integer':
      return areDistinct || (isKey && table.key.length === 1) ? nextNumber(values) : (commonest(values) ?? 0);
    case 'float':
      return commonest(values) ?? 0;
    case 'uuid':
      return isKey && table.key.length === 1 ? crypto.randomUUID() : commonest(values);
    case 'instant':
      return new Date().toISOString();
    case 'enum':
      return commonest(values) ?? column.labels[0];
    case 'array':
      return [];
    case 'json':
      return {};
    default:
      return areDistinct || isKey ? `new-${Math.random().toString(36).slice(2, 7)}` : (commonest(values) ?? '');
  }
}

function commonest(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1])[0]?.[0];
}

/** After the highest; among numbers that look like milliseconds of our time, now. */
function nextNumber(values) {
  const highest = values.reduce((most, value) => (BigInt(value) > most ? BigInt(value) : most), 0n);
  if (highest > 1e12 && highest < 1e13) return Date.now();
  const next = highest + 1n;
  return next <= Number.MAX_SAFE_INTEGER ? Number(next) : String(next);
}

/** Whether a column has numbers, however they are written in JSON. */
export function isNumeric(column) {
  return ['integer', 'float'].includes(column.kind) || /^(bigint|numeric(\(.*\))?)$/.test(column.type);
}

const collator = new Intl.Collator('en', { numeric: true });

/** The order of two values of a column; null comes last. */
export function compare(column, one, other) {
  const isNull = (value) => value === null || value === undefined;
  if (isNull(one) || isNull(other)) return Number(isNull(one)) - Number(isNull(other));
  if (typeof one === 'number' && typeof other === 'number') return one - other;
  // Its digits are not a number's.
  if (column.kind === 'uuid') return Number(one > other) - Number(one < other);
  if (isNumeric(column)) return compareNumbers(one, other);
  return collator.compare(show(one), show(other));
}

/** One of them is a text: of more digits than a number has, or of a type that JSON's numbers are not for. */
function compareNumbers(one, other) {
  const [first, second] = [Number(one), Number(other)];
  if (Number.isNaN(first) || Number.isNaN(second)) return Number(Number.isNaN(first)) - Number(Number.isNaN(second));
  if (first !== second) return first < second ? -1 : 1;
  const areWhole = [one, other].every((value) => /^-?\d+$/.test(value));
  if (!areWhole) return 0;
  const [exact, against] = [BigInt(one), BigInt(other)];
  return Number(exact > against) - Number(exact < against);
}
