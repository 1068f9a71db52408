// The storages do the same: in random runs, over the end of a process, and when a write breaks off.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import initSqlJs from 'sql.js';
import { memoryStorage } from '../src/index.js';
import { keyValueStorage } from '../src/keyvalue.js';
import { sqliteStorage } from '../src/sqlite.js';
import { conforms } from './conformance.js';
import { random } from './random.js';
import { ScriptedServer, until } from './scripted.js';

const { Database } = await initSqlJs();
const later = () => new Promise(setImmediate);

/** `SQLiteDatabase` of expo-sqlite, over SQLite. `failing.statement` fails. */
function expo(database, failing = {}) {
  return {
    async execAsync(source) {
      await later();
      database.exec(source);
    },
    async runAsync(source, params) {
      await later();
      if (failing.statement?.test(source)) throw new Error('the disk is full');
      database.run(source, params);
    },
    async getAllAsync(source, params) {
      await later();
      const statement = database.prepare(source, params);
      const rows = [];
      while (statement.step()) rows.push(statement.getAsObject());
      statement.free();
      return rows;
    },
    async withTransactionAsync(task) {
      database.run('BEGIN');
      try {
        await task();
      } catch (error) {
        database.run('ROLLBACK');
        throw error;
      }
      database.run('COMMIT');
    },
  };
}

/** MMKV, over a map. `left` is how many writes are left before the process ends. */
class KeyValues {
  left = Infinity;
  kept = new Map();

  #spend() {
    if (this.left-- <= 0) throw new Error('the process has ended');
  }

  getString(key) {
    return this.kept.get(key);
  }

  set(key, value) {
    this.#spend();
    this.kept.set(key, value);
  }

  remove(key) {
    this.#spend();
    this.kept.delete(key);
  }

  getAllKeys() {
    return [...this.kept.keys()];
  }
}

for (const [name, make] of [
  ['memory', () => memoryStorage()],
  ['SQLite', () => sqliteStorage(async () => expo(new Database()))],
  ['a store of keys and texts', () => keyValueStorage(new KeyValues())],
]) {
  test(`${name} conforms to what a storage must do`, async () => {
    for (let seed = 0; seed < 8; seed++) {
      await assert.doesNotReject(conforms(make(), memoryStorage(), random(seed), 60), `seed ${seed}`);
    }
  });
}

const BEFORE = { rows: [['note', '[1]', { id: 1 }], ['note', '[2]', { id: 2 }]], entries: [{ id: 'a', ops: [], state: 'pending', number: 1 }], gone: [], meta: { last: 1 } };
const AFTER = { rows: [['note', '[1]', undefined], ['note', '[3]', { id: 3 }]], entries: [{ id: 'b', ops: [], state: 'pending', number: 2 }], gone: ['a'], meta: { last: 2 } };

test('SQLite: a write that breaks off is none', async () => {
  const database = new Database();
  for (const statement of [/row\s+SELECT/, /DELETE FROM rowtide_row/, /entry\s+SELECT/, /DELETE FROM rowtide_entry/, /meta/]) {
    const failing = {};
    const store = await sqliteStorage(async () => expo(database, failing)).open('a');
    await store.clear();
    await store.write(BEFORE);
    const before = await store.load();
    failing.statement = statement;
    await assert.rejects(store.write(AFTER), /the disk is full/);
    assert.deepEqual(await store.load(), before);
  }
});

test('a store of keys and texts: a write that breaks off is whole when the store is opened again, or none', async () => {
  const outcomes = new Set();
  for (let left = 0, ended = true; ended; left++) {
    const values = new KeyValues();
    const store = await keyValueStorage(values).open('a');
    await store.write(BEFORE);
    values.left = left;
    ended = await store.write(AFTER).then(() => false, () => true);
    values.left = Infinity;
    const copy = await (await keyValueStorage(values).open('a')).load();
    assert.deepEqual([copy.rows.map(([, key]) => key), copy.entries.map(({ id }) => id)], copy.meta.last === 1 ? [['[1]', '[2]'], ['a']] : [['[2]', '[3]'], ['b']]);
    outcomes.add(copy.meta.last);
  }
  assert.deepEqual([...outcomes], [1, 2]);
});

test('what was written over SQLite is there for the next process, which sends it', async () => {
  const server = await ScriptedServer.start();
  const database = new Database();
  const start = () => server.client({ storage: sqliteStorage(async () => expo(database)) });
  const before = start();
  const { clientId } = await (await server.accept()).welcome({ rows: [{ id: 1, text: 'a' }] });
  await until(before.status, ({ connection }) => connection === 'live');
  before.disconnect();
  await before.mutate((tx) => tx.note.update({ id: 1, text: 'b' })).stored;
  const db = start();
  await db.opened;
  assert.deepEqual([db.table('note').get(1).text, db.status.get().durable], ['b', true]);
  const connection = await server.accept();
  assert.equal((await connection.welcome({ mode: 'resume' })).clientId, clientId);
  assert.equal((await connection.next('mutate')).id, 1);
  await server.stop();
});
