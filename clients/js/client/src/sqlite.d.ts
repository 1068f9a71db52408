import type { Storage } from './index.js';

/** What is used of `SQLiteDatabase` of expo-sqlite; another library fits if it has these four. */
export interface SQLiteDatabase {
  execAsync(source: string): Promise<unknown>;
  runAsync(source: string, params: string[]): Promise<unknown>;
  getAllAsync(source: string, params: string[]): Promise<any[]>;
  withTransactionAsync(task: () => Promise<void>): Promise<void>;
}

/**
 * Stores copies in SQLite: `sqliteStorage(() => openDatabaseAsync('rowtide.db'))`, with `openDatabaseAsync` of expo-sqlite. Give it a
 * database of its own: its connection runs one transaction at a time. SQLite needs its functions for JSON.
 */
export declare function sqliteStorage(openDatabase: () => Promise<SQLiteDatabase>): Storage;
