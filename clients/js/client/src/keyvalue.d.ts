import type { Storage } from './index.js';

/** What is used of MMKV; another store of keys and texts fits if it has these. */
export interface KeyValueStore {
  getString(key: string): string | undefined;
  set(key: string, value: string): void;
  getAllKeys(): string[];
  /** One of the two, which are the same. */
  delete?(key: string): unknown;
  remove?(key: string): unknown;
}

/** Stores copies in a store of keys and texts: `keyValueStorage(new MMKV({ id: 'rowtide' }))`. */
export declare function keyValueStorage(store: KeyValueStore): Storage;
