/** The JSON of a value of Postgres; see the protocol's table of values. */
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };

/**
 * A table's rows, what an insert takes, what an update may name beside the key (`never` where nobody may),
 * and the columns of its key. `rowtide types` writes these.
 */
export interface TableTypes {
  row: object;
  insert: object;
  update: object;
  key: string;
}

/** The tables of an application, by name. */
export type AnySchema = Record<string, TableTypes>;

/** Any tables with any columns. */
export interface Untyped {
  [table: string]: Record<'row' | 'insert' | 'update', Record<string, any>> & { key: string };
}

type Names<S> = keyof S & string;
type Part<S, T extends keyof S, P extends string> = S[T] extends Record<P, infer V> ? V : never;
type RowOf<S, T extends keyof S> = Readonly<Part<S, T, 'row'>>;
type KeyColumns<S, T extends keyof S> = Part<S, T, 'key'> & keyof Part<S, T, 'row'>;
type IsUnion<K, All = K> = K extends K ? ([All] extends [K] ? false : true) : never;
type KeyRow<S, T extends keyof S> = Pick<Part<S, T, 'row'>, KeyColumns<S, T>>;
/** An object with the columns of the primary key, or, if it is one column, its value. */
export type KeyOf<S, T extends keyof S> =
  | KeyRow<S, T>
  | (IsUnion<KeyColumns<S, T>> extends true ? never : Part<S, T, 'row'>[KeyColumns<S, T>]);
/** What an insert takes. */
export type InsertOf<S, T extends keyof S> = Part<S, T, 'insert'>;
/** The whole key, and the columns that change. */
export type UpdateOf<S, T extends keyof S> = [Part<S, T, 'update'>] extends [never]
  ? never
  : KeyRow<S, T> & Part<S, T, 'update'>;

/** How a row is shown now and how it was before; without `row` it is gone (from the query). */
export interface Change<Row = Record<string, any>> {
  table: string;
  /** The JSON of the key's values. */
  key: string;
  row?: Row;
  before?: Row;
}

export interface Query<Row> {
  /** The rows, the same array as long as none changes. Rows that did not change are the same objects. */
  all(): readonly Row[];
  /** Calls `listener` once for each step that changes what is in the query. Returns how to stop it. */
  subscribe(listener: (changes: readonly Change<Row>[]) => void): () => void;
}

export interface Table<S, T extends keyof S> extends Query<RowOf<S, T>> {
  get(key: KeyOf<S, T>): RowOf<S, T> | undefined;
  /** Rows for which `condition` holds: a predicate, or columns with the values that they must have. */
  where(condition: ((row: RowOf<S, T>) => boolean) | Partial<RowOf<S, T>>): Query<RowOf<S, T>>;
  /** Whether a mutation that is not settled has a part in whether and how this row is shown. */
  isPending(key: KeyOf<S, T>): boolean;
}

export interface TableWriter<S, T extends keyof S> {
  /** A new row; if its key is there already, an update of it. */
  insert(row: InsertOf<S, T>): void;
  /** The key and the columns that change. */
  update(row: UpdateOf<S, T>): void;
  delete(key: KeyOf<S, T>): void;
}

export type Transaction<S> = { readonly [T in Names<S>]: TableWriter<S, T> };

export interface Op {
  op: 'insert' | 'update' | 'delete';
  table: string;
  row: Record<string, any>;
}

/** The outcome of a mutation: confirmed, or refused with a code of the protocol. */
export interface Settled {
  id: string;
  ops: readonly Op[];
  code?: string;
  message?: string;
}

export interface Status {
  /**
   * `connecting` also while the first rows come; `offline` until the next try; `stopped` for good, with
   * `error` (`client_too_old`: ask the person to reload).
   */
  connection: 'connecting' | 'live' | 'offline' | 'stopped';
  /** How many mutations wait for their outcome. */
  pending: number;
  /** Why it is not live, or why nothing can be stored. */
  error?: { code: string; message: string };
  /** Whose rows are shown. */
  user?: string;
  /** Whether this tab has the connection. */
  leads: boolean;
}

/** A value that can be read and listened to: the same object as long as nothing changes. */
export interface Observable<T> {
  get(): T;
  subscribe(listener: (value: T) => void): () => void;
}

export interface Client<S = Untyped> {
  table<T extends Names<S>>(name: T): Table<S, T>;
  /** The names of the tables that are known: those of `tables`, then those that the server tells of. */
  tables(): Names<S>[];
  /**
   * Writes: what `write` does shows at once, is one transaction on the server, and is sent until it is
   * settled. `confirmed` resolves when its effects are in the rows, and rejects with a `RowtideError`
   * when it is refused; nothing of it is shown any more then. Throws if the server could not take it.
   */
  mutate(write: (tx: Transaction<S>) => void): { id: string; confirmed: Promise<void> };
  /** The mutations whose outcome is not known, in order. */
  pending(): { id: string; ops: readonly Op[] }[];
  readonly status: Observable<Status>;
  /** Calls `listener` once for each step, with every row that is shown otherwise. */
  subscribe(listener: (changes: readonly Change[]) => void): () => void;
  /** Calls `listener` with every outcome, also of mutations made in other tabs and before a reload. */
  onSettled(listener: (settled: Settled) => void): () => void;
  /** Resolves when what is stored is shown. */
  readonly opened: Promise<void>;
  /** Goes offline until `connect`. What is written meanwhile is sent then. */
  disconnect(): void;
  /** Comes back after `disconnect`, or at once instead of after a wait. */
  connect(): void;
  /** Ends the client; resolves when all that was written is stored. It goes on with the next client. */
  close(): Promise<void>;
  /** Ends the client and forgets rows and pending mutations of the user, in all tabs of the browser. */
  signOut(): Promise<void>;
}

export interface ClientOptions {
  /** `ws://…/sync` or `wss://…/sync`. */
  url: string;
  /**
   * Gives a token (a JWT) whenever one is needed: to connect, and before it expires. With `refused`
   * the one of before is of no use any more.
   */
  token: (why: { refused: boolean }) => string | Promise<string>;
  /** The tables with their keys, if writes are to show before the first connect. `rowtide types` writes it. */
  tables?: { readonly [table: string]: { readonly key: readonly string[] } };
  /** Where the copy is kept: in a browser IndexedDB, shared by its tabs, elsewhere memory. */
  storage?: Storage;
  /** The user id, if it is known already: then nothing waits for the first token to show what is stored. */
  user?: string;
  /** The version that the server may find too old. */
  appVersion?: number;
  /** Needed where there is no global `WebSocket`. */
  WebSocket?: new (url: string, protocol: string) => any;
  /** Whether to connect by itself; otherwise with `connect`. */
  connect?: boolean;
  /** Sees every message of the protocol that this tab sends and receives. */
  trace?: (direction: 'sent' | 'received', message: any) => void;
}

export declare function createClient<S = Untyped>(options: ClientOptions): Client<S>;

/** A refusal: `code` is one of the protocol, or one that the application gives to a limit. */
export declare class RowtideError extends Error {
  constructor(code: string, message: string);
  code: string;
}

export interface StoredMutation {
  id: string;
  ops: Op[];
  number?: number;
  state: 'pending' | 'held' | 'refused';
}

/** What is written together must be there whole or not at all. */
export interface Batch {
  /** Table, key and row; without a row it is to be forgotten. */
  rows: [table: string, key: string, row: Record<string, any> | undefined][];
  /** Mutations to be kept, each under its id. */
  entries: StoredMutation[];
  /** The ids of mutations to be forgotten. */
  gone: string[];
  /** Takes the place of the one before. */
  meta?: Record<string, any>;
}

export interface Store {
  /** All that is kept; `meta` is an empty object at first. */
  load(): Promise<{
    meta: Record<string, any>;
    rows: [table: string, key: string, row: Record<string, any>][];
    entries: StoredMutation[];
  }>;
  write(batch: Batch): Promise<void>;
  /** Forgets everything. */
  clear(): Promise<void>;
  close(): void;
}

export interface Storage {
  /** Whether the tabs of a browser see the same stores. */
  shared: boolean;
  open(name: string): Promise<Store>;
}

/** Keeps copies in the browser's IndexedDB. */
export declare function indexedDBStorage(): Storage;
/** Keeps copies as long as it lives itself. */
export declare function memoryStorage(): Storage;
