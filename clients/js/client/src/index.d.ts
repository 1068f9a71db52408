/** The JSON form of a value of Postgres; see the protocol's table of values. */
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };

/**
 * A table's rows, what an insert takes, what an update may name beside the key (`never` where nobody may
 * insert or update), and the columns of its key. `rowtide types` writes these.
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

/** How a row is shown now and how it was shown before; without `row` it has left the table or query. */
export interface Change<Row = Record<string, any>> {
  table: string;
  /** The JSON of the key's values. */
  key: string;
  row?: Row;
  before?: Row;
}

/**
 * Whether what is shown is all that there is. `loading`: no rows are known yet, neither stored ones nor from the server. `partial`:
 * there are rows, but the connection has not been live since the copy was opened, or a subscription that this page uses is still
 * loading. `complete`: neither; it stays so when the connection ends, as `Status.connection` says.
 */
export type QueryStatus = 'loading' | 'partial' | 'complete';

/** What all queries of a client with `queries` have. */
interface WithStatus {
  /** `undefined` in a client that was created without `queries`. */
  readonly status: QueryStatus;
  /** Calls `listener` when the status changes. Returns a function that ends that. */
  onStatus(listener: (status: QueryStatus) => void): () => void;
}

/** Columns with the values that they must have (a column that a row lacks is `null`), or a predicate without side effects. */
export type Condition<Row> = Partial<Row> | ((row: Row) => boolean);

type Columns<Row> = keyof Row & string;
/**
 * A column, or several, each with its direction where it is not `asc`. `nulls` are `last`, with `desc` they are `first`. `numeric`: strings
 * of digits (`numeric`, and `int8` where it is a string) are compared as numbers.
 */
export type OrderBy<Row> =
  | Columns<Row>
  | readonly (
      | Columns<Row>
      | readonly [column: Columns<Row>, direction?: 'asc' | 'desc', options?: { nulls?: 'first' | 'last'; numeric?: boolean }]
    )[];

/**
 * Rows. What builds on them (`orderBy`, `limit`, `count`, `groupCount`, `status`) needs a client with `queries` of @rowtide/client/queries; without
 * it these throw a `TypeError`.
 */
export interface Query<Row> extends WithStatus {
  /** The rows: the same array as long as none changes. Rows that did not change are the same objects. */
  all(): readonly Row[];
  /** Calls `listener` once for each step that changes the query's rows. Returns a function that ends that. */
  subscribe(listener: (changes: readonly Change<Row>[]) => void): () => void;
  /** The rows in an order, which ends in the table's key. The last call holds. */
  orderBy(order: OrderBy<Row>): Filtered<Row>;
  /** The first rows, in the order of `orderBy`, or else of the key. The last call holds. */
  limit(rows: number): Filtered<Row>;
  /** How many rows there are. */
  count(): LiveValue<number>;
  /** How many rows there are of each value of a column. A value that is an object stands as its JSON. */
  groupCount<C extends Columns<Row>>(column: C): LiveValue<ReadonlyMap<Row[C], number>>;
}

/** Rows that can be narrowed further. */
export interface Filtered<Row> extends Query<Row> {
  /** Those of the rows for which `condition` holds, too; a limit is of these. */
  where(condition: Condition<Row>): Filtered<Row>;
}

/** A value that a query counts: the same object until it changes. */
export interface LiveValue<T> extends Observable<T>, WithStatus {}

export interface Table<S, T extends keyof S> extends Query<RowOf<S, T>> {
  get(key: KeyOf<S, T>): RowOf<S, T> | undefined;
  /** Rows for which `condition` holds. */
  where(condition: Condition<RowOf<S, T>>): Filtered<RowOf<S, T>>;
  /** Whether a mutation that is not acknowledged yet has an operation on this row. Changes are told by `onAcked` and by the status. */
  isPending(key: KeyOf<S, T>): boolean;
  /** The key as a `Change` has it; `undefined` as long as the key's columns are not known. */
  keyOf(key: KeyOf<S, T>): string | undefined;
}

export interface TableWriter<S, T extends keyof S> {
  /**
   * Inserts a row; if there is one with this key, updates that. Where the server makes the key (`rowtide types`: it is optional), it may be
   * left out. The row that is returned has a temporary one, a string: it stands for the key wherever a value may stand, also in later
   * mutations, and the row takes its real key in the step in which the server has made it.
   */
  insert(row: InsertOf<S, T>): InsertOf<S, T> & KeyRow<S, T>;
  /** Updates a row: give its key and the columns that change. */
  update(row: UpdateOf<S, T>): void;
  delete(key: KeyOf<S, T>): void;
}

export type Transaction<S> = { readonly [T in Names<S>]: TableWriter<S, T> };

export interface RowOp {
  op: 'insert' | 'update' | 'delete';
  table: string;
  row: Record<string, any>;
}

/** What the server has under a name (`[mutations.NAME]` of its definition). Nothing of it is shown before it is applied. */
export interface CallOp {
  op: 'call';
  name: string;
  args: Record<string, any>;
}

export type Op = RowOp | CallOp;

/** The outcome of a mutation: applied, or rejected with a code of the protocol. */
export interface Acked {
  id: string;
  ops: readonly Op[];
  code?: string;
  message?: string;
}

/** @deprecated The former name of `Acked`; the next release removes it. */
export type Settled = Acked;

export interface Status {
  /**
   * `connecting` until the rows are up to date, `live` then; `offline` until the next try; `stopped` for
   * good, with `error` (`client_too_old`: ask the person to reload).
   */
  connection: 'connecting' | 'live' | 'offline' | 'stopped';
  /** How many mutations wait for their acknowledgement. */
  pending: number;
  /** Why the connection is not live, or why nothing can be stored. */
  error?: { code: string; message: string };
  /** Whose rows are shown; `undefined` also where nobody is signed in. */
  user?: string;
  /** Whether this tab has the connection. */
  leads: boolean;
  /**
   * Whether rows and mutations outlive the page: `false` where they are kept in memory, and where the storage has failed, was not
   * open after five seconds, or did not give the copy for thirty. `undefined` until the copy is open.
   */
  durable?: boolean;
  /** Why the storage was given up for memory, for the developer. */
  storageError?: string;
}

/** A value with listeners: the same object as long as nothing changes. */
export interface Observable<T> {
  get(): T;
  subscribe(listener: (value: T) => void): () => void;
}

/** What has become of a subscription. */
export interface SubscriptionState {
  /**
   * `loading` until the rows are there; `ready` from then on, also offline and after a reload; `refused` with `error`, until another
   * connection may have changed that.
   */
  status: 'loading' | 'ready' | 'refused';
  /** A code of the protocol, or `unsupported`: the server does not know subscriptions. */
  error?: { code: string; message: string };
}

/** What one caller has of a subscription. Callers that ask for the same share it. */
export interface Subscription extends Observable<SubscriptionState> {
  readonly status: SubscriptionState['status'];
  readonly error: SubscriptionState['error'];
  /** Resolves when the rows are there; rejects with a `RowtideError` if the server refuses the subscription before. */
  readonly ready: Promise<void>;
  /** Ends this caller's use. The rows stay for a while after the last use. */
  unsubscribe(): void;
}

/** The parameters of a query, which may be left out where it needs none. */
type Params<Q, N extends keyof Q> = {} extends Q[N] ? [params?: Q[N]] : [params: Q[N]];

export interface Client<S = Untyped, Q = Record<string, Record<string, any>>> {
  /** A table. Throws a `TypeError` for a name that is not among `tables`, where the client was given these, nor on the server. */
  table<T extends Names<S>>(name: T): Table<S, T>;
  /** The names of the known tables: those of `tables`, later those that the server sends. */
  tables(): Names<S>[];
  /** The columns of a table's primary key: known from `tables`, or once the server has named them. */
  keyOf(table: Names<S>): readonly string[] | undefined;
  /**
   * Makes a mutation: what `write` does shows at once, is one transaction on the server, and is sent until
   * the server acknowledges it. `confirmed` resolves when the mutation has been applied and its effects are
   * in the rows. It rejects with a `RowtideError` when the server rejects the mutation; its effects are no
   * longer shown then. `mutate` itself throws if the server could not accept the mutation.
   * `call` runs what the server has under a name, in the same transaction; nothing of that shows before it is applied.
   * `stored` resolves when the mutation will outlive the page: it is stored, or the server has acknowledged it, which is what it waits
   * for where copies are in memory (`durable` of the status). It rejects with the code `storage` when it cannot be stored now.
   */
  mutate(
    write: (tx: Transaction<S>, call: (name: string, args?: Record<string, any>) => void) => void,
  ): { id: string; confirmed: Promise<void>; stored: Promise<void> };
  /** The mutations that are not acknowledged yet, in order. */
  pending(): { id: string; ops: readonly Op[] }[];
  readonly status: Observable<Status>;
  /** Calls `listener` once for each step, with every row that the step changes. */
  subscribe(listener: (changes: readonly Change[]) => void): () => void;
  /**
   * Asks the server for the rows that a query of its definition selects; they come into the tables, beside what is there. A client
   * that was created without `subscriptions` throws.
   */
  subscribe<N extends keyof Q & string>(query: N, ...params: Params<Q, N>): Subscription;
  /** The state of a subscription, without asking for it. */
  subscription<N extends keyof Q & string>(query: N, ...params: Params<Q, N>): SubscriptionState;
  /** Calls `listener` for each acknowledgement, also of mutations made in other tabs and before a reload. */
  onAcked(listener: (acked: Acked) => void): () => void;
  /** @deprecated The former name of `onAcked`; the next release removes it. */
  onSettled(listener: (acked: Acked) => void): () => void;
  /** Resolves when the stored copy is shown; with `connect: false` not before `connect` is called. */
  readonly opened: Promise<void>;
  /** Disconnects until `connect`, which sends what was written meanwhile. */
  disconnect(): void;
  /** Connects after `disconnect`, or ends the wait before the next try. */
  connect(): void;
  /** Ends the client; resolves when all mutations are stored. The next client goes on with them. */
  close(): Promise<void>;
  /** Ends the client and deletes the user's rows and pending mutations, in all tabs of the browser. */
  signOut(): Promise<void>;
  /**
   * Deletes the user's rows and pending mutations, as `signOut` does, and begins anew in this tab: for tools of developers. Other tabs stop.
   */
  forget(): Promise<void>;
  /** Sees every message of the protocol that this tab sends and receives. It is that of the options, and may be replaced at any time. */
  trace?: ClientOptions['trace'];
}

/** Why the client asks for a token. */
export interface TokenRequest {
  /** Whether the last token is of no use any more. */
  rejected: boolean;
  /** @deprecated The former name of `rejected`; the next release removes it. */
  refused: boolean;
}

export interface ClientOptions {
  /** `ws://…/sync` or `wss://…/sync`. */
  url: string;
  /**
   * Returns a token (a JWT). The client calls it to connect, and before a token expires. With `rejected`
   * the last token is of no use any more: the server has rejected it, or it is about to expire. `null` where
   * nobody is signed in: the client then has what everyone may read, where the application lets such clients
   * in. After signing in, `disconnect` and `connect` have the client ask again.
   */
  token: (why: TokenRequest) => string | null | Promise<string | null>;
  /**
   * The tables with their keys, so that writes show before the first connect, and with what the database puts into columns that an
   * insert leaves out: a new row shows it until the server's row replaces it. It is not sent. `rowtide types` writes all that.
   */
  tables?: { readonly [table: string]: { readonly key: readonly string[]; readonly defaults?: { readonly [column: string]: any } } };
  /** Where the copy is stored. Default: in a browser IndexedDB, shared by its tabs; elsewhere memory. */
  storage?: Storage;
  /** The user id, if it is known: the stored copy is then shown without waiting for the first token. */
  user?: string;
  /** The application's version, which the server may find too old. */
  appVersion?: number;
  /** Needed where there is no global `WebSocket`. */
  WebSocket?: new (url: string, protocol: string) => any;
  /**
   * `false`: the client does nothing until `connect` is called: it asks for no token, opens no storage and needs no `WebSocket`. So
   * it is right where pages are rendered on a server: `connect: typeof window === 'object'`.
   */
  connect?: boolean;
  /** `subscriptions()` of `@rowtide/client/subscriptions`, for a client that subscribes to queries. */
  subscriptions?: (...internal: any) => any;
  /** `queries()` of @rowtide/client/queries, for a client that orders, limits and counts. */
  queries?: (...internal: any) => any;
  /** Sees every message of the protocol that this tab sends and receives. */
  trace?: (direction: 'sent' | 'received', message: any) => void;
}

export declare function createClient<S = Untyped, Q = Record<string, Record<string, any>>>(options: ClientOptions): Client<S, Q>;

/** An error with a `code`: one of the protocol, or one that the application gives to a limit. */
export declare class RowtideError extends Error {
  constructor(code: string, message: string);
  code: string;
}

/** A mutation in a store. */
export interface StoredMutation {
  id: string;
  ops: Op[];
  number?: number;
  /** `held`: applied, but its effects are not in the rows yet. `refused`: rejected. Stored copies have these names. */
  state: 'pending' | 'held' | 'refused';
  /** The order of those that were stored before they had a number. */
  at?: number;
}

/** What one write stores: all of it, or nothing. */
export interface Batch {
  /** Table, key and row. Without a row, delete the one that is stored. */
  rows: [table: string, key: string, row: Record<string, any> | undefined][];
  /** Mutations to store, each under its id. */
  entries: StoredMutation[];
  /** The ids of mutations to delete. */
  gone: string[];
  /** Replaces the stored `meta`. */
  meta?: Record<string, any>;
}

export interface Store {
  /** Everything in the store; `meta` is an empty object at first. */
  load(): Promise<{
    meta: Record<string, any>;
    rows: [table: string, key: string, row: Record<string, any>][];
    entries: StoredMutation[];
  }>;
  write(batch: Batch): Promise<void>;
  /** Deletes everything. */
  clear(): Promise<void>;
  close(): void;
}

export interface Storage {
  /** Whether the tabs of a browser see the same stores. */
  shared: boolean;
  /** Whether what is written outlives the page. Default: `true`. */
  durable?: boolean;
  open(name: string): Promise<Store>;
}

/** Stores copies in the browser's IndexedDB. */
export declare function indexedDBStorage(): Storage;
/** Stores copies in memory, as long as it lives itself. */
export declare function memoryStorage(): Storage;
