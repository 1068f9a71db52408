/**
 * Collections of TanStack DB over the client: each has the rows of a table as the client shows them, with the
 * pending mutations on them. So there is one optimistic state, the client's. A transaction of TanStack DB ends as
 * soon as the client has taken what it wrote: its own optimistic rows go in the same batch in which the client's
 * come, and what the server says later comes as any other change of a row. A transaction that waited for the
 * server would keep its collections from changing until then.
 */

/**
 * @typedef {import('@rowtide/client').Client<any, any>} Client
 * @typedef {import('@tanstack/db').PendingMutation<any, any, any>} PendingMutation
 * @typedef {{ mutations: PendingMutation[], isPersisted: { promise: Promise<any> } }} Transaction
 * @typedef {Record<string, any>} Row
 */

/** What TanStack DB adds to the rows that it returns; they are no columns. */
const VIRTUAL = new Set(['$hasPendingWrites', '$synced', '$origin', '$key', '$collectionId']);

/** The table that a collection has. @type {WeakMap<object, { client: Client, table: string }>} */
const sources = new WeakMap();

/** What the server will say of a transaction. @type {WeakMap<object, Promise<void>>} */
const answers = new WeakMap();

/** Names of rows without a key, from `insert` until the client has taken them. @type {WeakMap<object, string>} */
const unkeyed = new WeakMap();
let names = 0;

/**
 * @param {{ client: Client, table: string, id?: string }} options
 * @returns {any} options of `createCollection`
 */
export function rowtideCollectionOptions({ client, table, id = table }) {
  const write = rowtideMutationFn(client);
  const getKey = (/** @type {Row} */ row) => collectionKey(columnsOf(client, table), row);
  return {
    id,
    getKey,
    sync: { sync: (/** @type {any} */ into) => feed(client, table, getKey, into), rowUpdateMode: 'full' },
    onInsert: write,
    onUpdate: write,
    onDelete: write,
  };
}

/**
 * @param {Client} client
 * @returns {(of: { transaction: any }) => Promise<void>} a `mutationFn`, which makes one mutation of a transaction
 */
export function rowtideMutationFn(client) {
  return async ({ transaction }) => {
    const { confirmed } = client.mutate((tx) => {
      for (const mutation of transaction.mutations) add(client, tx, mutation);
    });
    answers.set(transaction, confirmed);
  };
}

/**
 * @param {Transaction} transaction
 * @returns {Promise<void>}
 */
export function confirmed(transaction) {
  const answer = transaction.isPersisted.promise.then(() => answers.get(transaction));
  // A rejection that nobody handles is not an error of the page.
  answer.catch(() => {});
  return answer;
}

/**
 * @param {Client} client
 * @param {any} tx of the client
 * @param {PendingMutation} mutation
 */
function add(client, tx, { type, collection, original, modified, changes }) {
  const source = sources.get(collection);
  if (source?.client !== client) {
    throw new TypeError(`the collection \`${collection.id}\` is not of this client: it cannot be in one mutation with its tables`);
  }
  const { table } = source;
  if (type === 'insert') return tx[table].insert(columnsIn(modified));
  const key = keyRow(columnsOf(client, table), original);
  if (type === 'delete') return tx[table].delete(key);
  return tx[table].update({ ...columnsIn(changes), ...key });
}

/**
 * Writes what the client shows of a table into a collection, as long as that is used: one commit for each step.
 * @param {Client} client
 * @param {string} table
 * @param {(row: Row) => string | number} getKey
 * @param {any} into what TanStack DB gives to a `sync`
 * @returns {() => void}
 */
function feed(client, table, getKey, { collection, begin, write, commit, markReady, markError }) {
  sources.set(collection, { client, table });
  const rows = client.table(table);
  const put = (/** @type {readonly any[]} */ changes) => {
    begin();
    for (const { row, before } of changes) {
      // An update writes a new row as well. A step that is told while a collection begins is in its first rows already.
      if (row) write({ type: 'update', value: row });
      else write({ type: 'delete', key: getKey(before) });
    }
    commit();
  };
  const stops = [rows.subscribe(put)];
  if (rows.all().length) put(rows.all().map((row) => ({ row })));

  let waits = true;
  const look = () => {
    const { connection, error } = client.status.get();
    if (!waits || (connection !== 'live' && connection !== 'stopped')) return;
    waits = false;
    if (connection === 'live') markReady();
    else markError(Object.assign(new Error(error?.message ?? 'the client has stopped'), { code: error?.code ?? 'stopped' }));
  };
  stops.push(client.status.subscribe(look));
  look();
  const opened = () => {
    // Without a connection, rows that nobody has just written are of a stored copy.
    if (!waits || !client.tables().some((name) => isStored(client.table(name)))) return;
    waits = false;
    markReady();
  };
  client.opened.then(opened, () => {});
  return () => {
    waits = false;
    for (const stop of stops) stop();
  };
}

/** Whether a table has a row that is not written here alone. @param {any} table */
const isStored = (table) => table.all().some((/** @type {Row} */ row) => !table.isPending(row));

/**
 * @param {Client} client
 * @param {string} table
 */
function columnsOf(client, table) {
  const columns = client.keyOf(table);
  if (!columns) throw new TypeError(`the key of table \`${table}\` is not known yet: give \`createClient\` its \`tables\``);
  return columns;
}

/**
 * @param {readonly string[]} columns of the primary key
 * @param {Row} row
 */
const keyRow = (columns, row) => Object.fromEntries(columns.map((column) => [column, row[column]]));

/**
 * The key of a row in a collection: the value of its one key column, or the JSON of several.
 * @param {readonly string[]} columns of the primary key
 * @param {Row} row
 * @returns {string | number}
 */
function collectionKey(columns, row) {
  const values = columns.map((column) => row[column]);
  if (values.includes(undefined)) return nameOf(row);
  const [value] = values;
  return values.length === 1 && (typeof value === 'string' || typeof value === 'number') ? value : JSON.stringify(values);
}

/** The name of a row whose key the server makes. @param {Row} row */
function nameOf(row) {
  let name = unkeyed.get(row);
  if (!name) unkeyed.set(row, (name = `$unkeyed:${++names}`));
  return name;
}

/**
 * The columns in what TanStack DB gives: a value that a person has deleted is NULL.
 * @param {Row} values
 */
function columnsIn(values) {
  const columns = Object.entries(values).filter(([name]) => !VIRTUAL.has(name));
  return Object.fromEntries(columns.map(([name, value]) => [name, value === undefined ? null : value]));
}
