/**
 * Stores copies in SQLite: of expo-sqlite, or of whatever has the same four methods. All copies are in three tables of one database.
 * The database has one connection, whose transactions must not mix, so one is at work at a time. What is written goes to
 * SQLite as one JSON for each table: a call for each row would be slow.
 */

/**
 * @typedef {import('./storage.js').Batch} Batch
 * @typedef {object} Database what is used of `SQLiteDatabase` of expo-sqlite
 * @property {(source: string) => Promise<unknown>} execAsync
 * @property {(source: string, params: string[]) => Promise<unknown>} runAsync
 * @property {(source: string, params: string[]) => Promise<any[]>} getAllAsync
 * @property {(task: () => Promise<void>) => Promise<void>} withTransactionAsync
 */

// No number of a mutation may be used twice, even after a power failure.
const SETUP = `
  PRAGMA synchronous = FULL;
  CREATE TABLE IF NOT EXISTS rowtide_meta (copy TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS rowtide_row (copy TEXT, name TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (copy, name, key)) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS rowtide_entry (copy TEXT, id TEXT, value TEXT NOT NULL, PRIMARY KEY (copy, id)) WITHOUT ROWID;
`;
const PUT_META = 'INSERT OR REPLACE INTO rowtide_meta VALUES (?, ?)';
const PUT_ROWS = `INSERT OR REPLACE INTO rowtide_row
  SELECT ?, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?)`;
const DELETE_ROWS = `DELETE FROM rowtide_row WHERE copy = ?
  AND (name, key) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))`;
const PUT_ENTRIES = `INSERT OR REPLACE INTO rowtide_entry
  SELECT ?, json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)`;
const DELETE_ENTRIES = 'DELETE FROM rowtide_entry WHERE copy = ? AND id IN (SELECT value FROM json_each(?))';

/**
 * @param {() => Promise<Database>} openDatabase is called once
 * @returns {import('./storage.js').Storage}
 */
export function sqliteStorage(openDatabase) {
  /** @type {Promise<Database> | undefined} */
  let opened;
  const database = () => (opened ??= openDatabase().then(async (database) => {
    await database.execAsync(SETUP);
    return database;
  }));
  /** @type {Promise<unknown>} */
  let last = Promise.resolve();
  /**
   * @template T
   * @param {(database: Database) => Promise<T>} work
   * @returns {Promise<T>}
   */
  const inTurn = (work) => {
    const turn = last.then(database).then(work);
    last = turn.catch(() => {});
    return turn;
  };
  return {
    shared: false,
    async open(copy) {
      await inTurn(async () => {});
      return {
        load: () =>
          inTurn(async (database) => {
            const [meta] = await database.getAllAsync('SELECT value FROM rowtide_meta WHERE copy = ?', [copy]);
            const rows = await database.getAllAsync('SELECT name, key, value FROM rowtide_row WHERE copy = ?', [copy]);
            const entries = await database.getAllAsync('SELECT value FROM rowtide_entry WHERE copy = ?', [copy]);
            return {
              meta: meta ? JSON.parse(meta.value) : {},
              rows: rows.map(({ name, key, value }) => [name, key, JSON.parse(value)]),
              entries: entries.map(({ value }) => JSON.parse(value)),
            };
          }),
        write: (batch) => inTurn((database) => database.withTransactionAsync(() => write(database, copy, batch))),
        clear: () =>
          inTurn((database) =>
            database.withTransactionAsync(async () => {
              for (const table of ['meta', 'row', 'entry']) await database.runAsync(`DELETE FROM rowtide_${table} WHERE copy = ?`, [copy]);
            }),
          ),
        close() {},
      };
    },
  };
}

/**
 * @param {Database} database in a transaction
 * @param {string} copy
 * @param {Batch} batch
 */
async function write(database, copy, { rows, entries, gone, meta }) {
  /** @type {[string, unknown[]][]} */
  const statements = [
    [PUT_ROWS, rows.flatMap(([name, key, row]) => (row ? [[name, key, JSON.stringify(row)]] : []))],
    [DELETE_ROWS, rows.filter(([, , row]) => !row)],
    [PUT_ENTRIES, entries.map((entry) => [entry.id, JSON.stringify(entry)])],
    [DELETE_ENTRIES, gone],
  ];
  for (const [statement, values] of statements) if (values.length) await database.runAsync(statement, [copy, JSON.stringify(values)]);
  if (meta) await database.runAsync(PUT_META, [copy, JSON.stringify(meta)]);
}
