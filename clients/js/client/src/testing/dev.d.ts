export interface DevOptions {
  /** The server's program. Default: what `ROWTIDE_BIN` names, or `rowtide` on the path. */
  binary?: string;
  /** The definition's file. */
  definition?: string;
  /** The directory of the migrations that make the application's tables. */
  migrations?: string;
  /** An example of the server instead of both: `files` or `tracker`. */
  example?: string;
  /** More arguments of `rowtide dev`. */
  args?: string[];
  /** How long the server may take to start, in milliseconds. Default: 120,000. */
  timeout?: number;
}

/** What another process needs to join: JSON. */
export interface Shared {
  url: string;
  database: string;
  secret: string;
}

export interface JoinedApp {
  /** For `createClient`: `ws://127.0.0.1:…/sync`. */
  readonly url: string;
  /** To be given to `joinDev` in another process. */
  readonly shared: Shared;
  /** A token of a user, good for a day. */
  token(user: string, claims?: Record<string, any>): string;
  /**
   * Runs SQL as the owner of the database, with `psql`. Resolves to the rows of a query, their values as Postgres prints them;
   * rejects with what Postgres says.
   */
  sql(text: string): Promise<Record<string, string | null>[]>;
}

export interface DevApp extends JoinedApp {
  /** Ends the server and its PostgreSQL, and removes what it has stored. */
  stop(): Promise<void>;
}

/**
 * Starts `rowtide dev` on a PostgreSQL of its own, at a free port, in a temporary directory. It ends with `stop`, and with the process
 * that has started it, also if that is killed. Rejects with the server's own words if it does not start.
 */
export declare function startDev(options?: DevOptions): Promise<DevApp>;

/** What `startDev` has started in another process, such as that of Vitest's `globalSetup`. */
export declare function joinDev(shared: Shared): JoinedApp;
