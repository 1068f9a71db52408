// Records of a document and what becomes of them, as tlsync writes it. What does not fit a record has no effect
// and is no error: somebody else was faster. Records are never changed in place, so that one that is still the
// same object is still the same record.

export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: Json;
}

/** A record: its id begins with its type. */
export interface Rec extends JsonObject {
  readonly id: string;
  readonly typeName: string;
}

/** What becomes of a value. Values are appended only to what has exactly the length that is given. */
export type ValueOp =
  | readonly ['put', Json]
  | readonly ['patch', ObjectDiff]
  | readonly ['append', readonly Json[] | string, number]
  | readonly ['delete'];

/** What becomes of the entries of an object, or of the items of an array by their index. */
export interface ObjectDiff {
  readonly [key: string]: ValueOp;
}

/** What becomes of a record. */
export type RecordOp = readonly ['put', Rec] | readonly ['patch', ObjectDiff] | readonly ['remove'];

/** What becomes of records, by their ids. */
export interface Diff {
  readonly [id: string]: RecordOp;
}

const isObject = (value: Json | undefined): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isArray = (value: Json | undefined): value is readonly Json[] => Array.isArray(value);

/** Whether two values are equal, whatever the order of their keys. */
export function isEqual(one: Json | undefined, other: Json | undefined): boolean {
  if (one === other) return true;
  if (isArray(one) && isArray(other)) {
    return one.length === other.length && one.every((item, at) => isEqual(item, other[at]));
  }
  if (!isObject(one) || !isObject(other)) return false;
  const keys = Object.keys(one);
  return (
    keys.length === Object.keys(other).length &&
    keys.every((key) => Object.hasOwn(other, key) && isEqual(one[key], other[key]))
  );
}

/** Whether a list goes on where another one ends. */
const begins = (list: readonly Json[], other: readonly Json[]): boolean =>
  other.length < list.length && other.every((item, at) => isEqual(item, list[at]));

/** A record after an operation; `undefined` if there is none. The same object if there was no effect. */
export function after(record: Rec | undefined, op: RecordOp): Rec | undefined {
  switch (op[0]) {
    case 'put':
      return record && isEqual(record, op[1]) ? record : op[1];
    case 'patch':
      return record && (patched(record, op[1]) as Rec);
    case 'remove':
      return undefined;
  }
}

function patched(value: Json, diff: ObjectDiff): Json {
  if (!isObject(value) && !isArray(value)) return value;
  const made = (isArray(value) ? [...value] : { ...value }) as { [key: string]: Json };
  let isSame = true;
  for (const [key, op] of Object.entries(diff)) {
    // Would give the object another prototype instead of an entry.
    if (key === '__proto__') continue;
    const isThere = Object.hasOwn(value, key) && !(isArray(value) && key === 'length');
    if (op[0] === 'delete') {
      if (!isThere || isArray(value)) continue;
      delete made[key];
    } else {
      if (!isThere && (op[0] !== 'put' || isArray(value))) continue;
      const own = made[key] as Json;
      const next = changed(own, op);
      if (isThere && next === own) continue;
      made[key] = next;
    }
    isSame = false;
  }
  return isSame ? value : (made as Json);
}

function changed(value: Json, op: Exclude<ValueOp, readonly ['delete']>): Json {
  switch (op[0]) {
    case 'put':
      return isEqual(value, op[1]) ? value : op[1];
    case 'patch':
      return patched(value, op[1]);
    case 'append': {
      const [, more, offset] = op;
      if (more.length === 0) return value;
      if (isArray(value) && typeof more !== 'string' && value.length === offset) return [...value, ...more];
      if (typeof value === 'string' && typeof more === 'string' && value.length === offset) return value + more;
      return value;
    }
  }
}

/** What makes `next` of `before`; `null` if they are equal. Of objects only `props` and `meta` are entered. */
export function difference(before: Rec, next: Rec): ObjectDiff | null {
  return objectDifference(before, next, (key) => key === 'props' || key === 'meta');
}

function objectDifference(before: JsonObject, next: JsonObject, enters: (key: string) => boolean): ObjectDiff | null {
  const diff: { [key: string]: ValueOp } = {};
  for (const key of Object.keys(before)) if (!Object.hasOwn(next, key)) diff[key] = ['delete'];
  for (const [key, value] of Object.entries(next)) {
    const own = Object.hasOwn(before, key) ? before[key] : undefined;
    if (isEqual(own, value)) continue;
    if (isObject(own) && isObject(value) && enters(key)) {
      const inner = objectDifference(own, value, () => true);
      if (inner) diff[key] = ['patch', inner];
    } else if (isArray(own) && isArray(value) && begins(value, own)) {
      diff[key] = ['append', value.slice(own.length), own.length];
    } else {
      // A text too: of two who write in one text the later has it, and neither writes in vain.
      diff[key] = ['put', value];
    }
  }
  return Object.keys(diff).length > 0 ? diff : null;
}

/** One diff that does what two do, one after the other, to records that both fit. */
export function composed(first: Diff, second: Diff): Diff {
  const made: { [id: string]: RecordOp } = { ...first };
  for (const [id, op] of Object.entries(second)) {
    const before = Object.hasOwn(first, id) ? first[id] : undefined;
    made[id] = before ? composedRecord(before, op) : op;
  }
  return made;
}

function composedRecord(first: RecordOp, second: RecordOp): RecordOp {
  if (second[0] !== 'patch') return second;
  if (first[0] === 'remove') return first;
  if (first[0] === 'put') return ['put', patched(first[1], second[1]) as Rec];
  return ['patch', composedObject(first[1], second[1])];
}

function composedObject(first: ObjectDiff, second: ObjectDiff): ObjectDiff {
  const made: { [key: string]: ValueOp } = { ...first };
  for (const [key, op] of Object.entries(second)) {
    const before = Object.hasOwn(first, key) ? first[key] : undefined;
    made[key] = before ? composedValue(before, op) : op;
  }
  return made;
}

function composedValue(first: ValueOp, second: ValueOp): ValueOp {
  if (second[0] === 'put' || second[0] === 'delete') return second;
  if (first[0] === 'put') return ['put', changed(first[1], second)];
  if (first[0] === 'patch' && second[0] === 'patch') return ['patch', composedObject(first[1], second[1])];
  if (first[0] === 'append' && second[0] === 'append') {
    const [, more, offset] = first;
    const [, rest, at] = second;
    if (at !== offset + more.length) return first;
    if (typeof more === 'string' && typeof rest === 'string') return ['append', more + rest, offset];
    if (typeof more !== 'string' && typeof rest !== 'string') return ['append', [...more, ...rest], offset];
  }
  // Nothing here appends to a list and changes its items.
  return first;
}

/**
 * The operation without appending, for a record that it has led to. Of something appended before, which may be there
 * already or not, the rest would not fit.
 */
export function whole(op: RecordOp, led: Rec | undefined): RecordOp {
  return op[0] === 'patch' && led ? ['patch', wholeObject(op[1], led)] : op;
}

function wholeObject(diff: ObjectDiff, led: JsonObject): ObjectDiff {
  const entries = Object.entries(diff).map(([key, op]): [string, ValueOp] => {
    const value = Object.hasOwn(led, key) ? led[key] : undefined;
    if (op[0] === 'append' && value !== undefined) return [key, ['put', value]];
    return [key, op[0] === 'patch' && isObject(value) ? ['patch', wholeObject(op[1], value)] : op];
  });
  return Object.fromEntries(entries);
}
