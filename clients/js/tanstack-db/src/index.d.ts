import type { Client, Query, Table } from '@rowtide/client';
import type { CollectionConfig, MutationFn, Transaction } from '@tanstack/db';

/** The rows of a table, as the client shows them. */
export type RowOf<S, T extends keyof S> = Table<S, T> extends Query<infer R> ? R & object : never;

/**
 * Options of `createCollection` for a table: the collection has the rows that the client shows, and what is written to it becomes
 * a mutation of the client. A row's key in the collection is the value of its key column, or, of several, the JSON of their values.
 * The collection is ready when the rows are up to date or come from a stored copy.
 */
export declare function rowtideCollectionOptions<S, T extends keyof S & string>(options: {
  client: Client<S, any>;
  table: T;
  /** The collection's id. Default: the table's name. */
  id?: string;
}): CollectionConfig<RowOf<S, T>, string | number> & { schema?: never };

/**
 * A `mutationFn` for `createTransaction` and `createOptimisticAction`: what a transaction writes to collections of `client`
 * becomes one mutation, and so one transaction of the server.
 */
export declare function rowtideMutationFn(client: Client<any, any>): MutationFn<any>;

/**
 * Resolves when the server has applied what a transaction wrote, which may be days later; rejects with a `RowtideError` when the
 * server has rejected it, or with what `mutate` threw. (`isPersisted` and `when('settled')` resolve when the client has taken it.)
 */
export declare function confirmed(transaction: Transaction<any>): Promise<void>;
