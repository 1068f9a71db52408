import type { Client, ClientOptions, Untyped } from './index.js';

/** Who reads or writes: what `auth` is in a definition. */
export interface Auth {
  /** `null` where nobody is signed in. */
  userId: string | null;
  /** The other claims of the token. */
  claims: Record<string, any>;
}

type RowOf<S, T extends keyof S> = S[T] extends { row: infer R } ? Readonly<R> : Record<string, any>;
type Names<S> = keyof S & string;
/** Columns with the values that they must have, or a predicate. */
type Where<Row> = Partial<Row> | ((row: Row) => boolean);

/** Reads all rows, whoever may see them. */
export interface Db<S = Untyped> {
  rows<T extends Names<S>>(table: T, where?: Where<RowOf<S, T>>): RowOf<S, T>[];
  /** A row by its key: the value of its one column, or an object with all of them. */
  row<T extends Names<S>>(table: T, key: any): RowOf<S, T> | undefined;
}

/** Writes as the owner of the database, whom no rule binds; constraints, defaults and triggers hold. */
export type OwnerTransaction<S = Untyped> = {
  readonly [T in Names<S>]: {
    /** Returns the row as it is stored, with defaults. */
    insert(row: Partial<RowOf<S, T>>): RowOf<S, T>;
    update(row: Partial<RowOf<S, T>>): RowOf<S, T>;
    delete(key: any): void;
  };
};

/** `true`: allowed; `false`: `forbidden`; a text: the code of a limit that is reached. */
export type Verdict = boolean | string;

/**
 * The rules of a table, as its definition has them. What has no rule nobody may do. Rules are asked before the write is
 * done, and `db` is as it is then.
 */
export interface TableRules<S = Untyped, Row = Record<string, any>> {
  key: readonly string[];
  /** `on_demand`: rows come with subscriptions only. Default: `always`. */
  sync?: 'always' | 'on_demand';
  /** Who sees a row. Without it, it is a table that only rules, calls and triggers use. */
  visible?: (row: Row, auth: Auth, db: Db<S>) => boolean;
  insert?: (row: Row, auth: Auth, db: Db<S>) => Verdict;
  update?: (before: Row, after: Row, auth: Auth, db: Db<S>) => Verdict;
  delete?: (row: Row, auth: Auth, db: Db<S>) => Verdict;
  /** Columns that only an insert writes. */
  immutable?: readonly (keyof Row & string)[];
  /** Columns that no client writes. */
  readonly?: readonly (keyof Row & string)[];
  /** Values, or functions of the row, for what an insert leaves out; `null`, too. A column of the key that is here may be left out. */
  defaults?: { [C in keyof Row]?: any };
  /** What must hold for a row that was written, by name; else the mutation is rejected with `constraint`. */
  constraints?: Record<string, (row: Row, db: Db<S>) => boolean>;
  /** Runs after each write of a row, in its transaction: without `before` it is new, without `after` it is gone. */
  trigger?: (tx: OwnerTransaction<S>, change: { before?: Row; after?: Row }, db: Db<S>) => unknown;
}

/** Whether a query selects a row, of those that the user may see. */
export type Selects<S = Untyped, Row = Record<string, any>> = (row: Row, params: any, auth: Auth, db: Db<S>) => boolean;

/** The first rows in an order. */
export interface Window<S = Untyped, Row = Record<string, any>> {
  where?: Selects<S, Row>;
  /** As in a definition: `number DESC, id`. Rows that are equal in it are in the order of their keys. */
  order?: string;
  limit?: number | ((params: any) => number);
}

export interface TestQuery<S = Untyped> {
  /** As in a definition: `{ channel: 'int4', count: 'int4 = 50' }`. */
  params?: Record<string, string>;
  select: { [T in Names<S>]?: Selects<S, RowOf<S, T>> | Window<S, RowOf<S, T>> };
}

export interface TestDefinition<S = Untyped> {
  tables: { [T in Names<S>]: TableRules<S, RowOf<S, T>> };
  queries?: Record<string, TestQuery<S>>;
  /**
   * What a call runs. An error that it throws rejects the mutation with the error's message, and its `code` (lower case,
   * as `no_invitation`) or else `rejected`.
   */
  mutations?: Record<string, (tx: OwnerTransaction<S>, args: any, auth: Auth, db: Db<S>) => void>;
  /** Whether who has no token is let in. Default: `false`. */
  anonymous?: boolean;
}

export interface TestServer<S = Untyped> extends Db<S> {
  /** To give to `createClient`, both. */
  readonly url: string;
  readonly WebSocket: new (url: string, protocol?: string) => any;
  /** A token of a user that this server takes. Tokens are not signed. */
  token(user: string, claims?: Record<string, any>): string;
  /** A client of a user (`null`: of nobody) with a copy in memory of its own; `close` ends it. `options` replace those of the kit. */
  client<Q = Record<string, Record<string, any>>>(user: string | null, options?: Partial<ClientOptions>): Client<S, Q>;
  /** Writes as the owner of the database, all in one commit. Clients are told of it. */
  write<T>(write: (tx: OwnerTransaction<S>, db: Db<S>) => T): T;
  /** The network goes: connections end, and none can be made. */
  offline(): void;
  /** The network is there again. The clients of `client` connect at once; others when their wait has ended, or with `db.connect()`. */
  online(): void;
  /** Ends all connections with a code of the protocol, such as `client_too_old`. */
  end(code: string, message?: string): void;
  /** Rejects the next mutation that arrives, whatever the rules say. */
  rejectNext(code: string, message?: string): void;
  /**
   * Resolves when everything is delivered, in both directions, and nothing comes of it any more. It uses no timer, and so does not wait
   * for what needs one. Rejects with what a function of the definition has thrown by mistake (a `TypeError`, say).
   */
  settled(): Promise<void>;
  /** Ends the clients of `client`, and all connections. */
  close(): Promise<void>;
}

/** A server in memory with the rules of reading and writing as functions. Name the schema of `rowtide types` for its types. */
export declare function testServer<S = Untyped>(definition: TestDefinition<S>): TestServer<S>;

/** The default of a column that counts: 1, 2, 3, … */
export declare const serial: unique symbol;

