// A server that sends what a test says, with two tables, and the collections of a client of it.
import { createCollection } from '@tanstack/db';
import { rowtideCollectionOptions } from '../src/index.js';
import { ScriptedServer, until } from '../../client/test/scripted.js';

export const TABLES = { note: { key: ['id'] }, mark: { key: ['note', 'person'] } };

export const put = (table, row) => ({ op: 'put', table, row });
export const gone = (table, row) => ({ op: 'delete', table, row });

/** Answers `connect`, with the rows of each table. */
export async function welcome(connection, rows = {}, { lastMutation = 0, rejections = [], cursor = '1' } = {}) {
  await connection.next('connect');
  const mode = 'snapshot';
  connection.say({ type: 'connected', protocol: 1, userId: 'ann', mode, lastMutation, refused: rejections, tables: TABLES, features: ['keys'] });
  for (const [table, of] of Object.entries(rows)) connection.say({ type: 'snapshot', table, rows: of });
  connection.say({ type: 'ready', cursor });
}

export const live = (db) => until(db.status, ({ connection }) => connection === 'live');

/** A client, its collections, and what the server has of its connection. */
export async function start(server, rows, options) {
  const db = server.client({ tables: TABLES, ...options });
  const notes = createCollection(rowtideCollectionOptions({ client: db, table: 'note' }));
  const marks = createCollection(rowtideCollectionOptions({ client: db, table: 'mark' }));
  const connection = await server.accept();
  await welcome(connection, rows);
  await Promise.all([notes.preload(), marks.preload()]);
  return { db, notes, marks, connection };
}

/** The rows of a collection, without what TanStack DB adds. */
export const rowsOf = (collection) =>
  collection.toArray.map((row) => Object.fromEntries(Object.entries(row).filter(([name]) => !name.startsWith('$'))));

/** What a collection tells of its changes from now on, as long as it is listened to. */
export function toldBy(collection) {
  const told = [];
  const { unsubscribe } = collection.subscribeChanges((changes) => {
    told.push(changes.map(({ type, key, value }) => [type, key, value.text]));
  }, { includeInitialState: true });
  told.length = 0;
  return { told, unsubscribe };
}
