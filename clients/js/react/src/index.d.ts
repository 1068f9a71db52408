import type { ReactNode } from 'react';
import type { Client, KeyOf, Query, Status, SubscriptionState, Table, Untyped } from '@rowtide/client';

/**
 * Where an application names its schema, and its queries if it has some, once:
 *
 *     declare module '@rowtide/react' { interface Register { schema: Schema; queries: Queries } }
 */
export interface Register {}
type RegisteredSchema = Register extends { schema: infer S } ? S : Untyped;
type RegisteredQueries = Register extends { queries: infer Q } ? Q : Record<string, Record<string, any>>;
type RegisteredClient = Client<RegisteredSchema, RegisteredQueries>;
type Names = keyof RegisteredSchema & string;
type RowOf<T extends Names> = Table<RegisteredSchema, T> extends Query<infer R> ? R : never;

/**
 * Provides `client` to the components inside. `rows`, by table, are what a server renders, and the browser first: a table shows them
 * until the client has rows of it or is up to date. `useRow` finds a given row if its key is an object with the columns.
 */
export declare function RowtideProvider(props: {
  client: Client<any, any>;
  rows?: { readonly [table: string]: readonly object[] };
  children?: ReactNode;
}): ReactNode;

/** The client of the provider. */
export declare function useClient(): RegisteredClient;

/**
 * The rows of a table, or those for which `where` holds. Renders again only when one of them changes.
 * A predicate that is written in place needs `deps`, as for `useMemo`; an object does not.
 */
export declare function useQuery<T extends Names>(
  table: T,
  where?: ((row: RowOf<T>) => boolean) | Partial<RowOf<T>>,
  deps?: readonly unknown[],
): readonly RowOf<T>[];

/** One row. Renders again only when it changes. */
export declare function useRow<T extends Names>(table: T, key: KeyOf<RegisteredSchema, T>): RowOf<T> | undefined;

/**
 * Subscribes to a query as long as the component is there: its rows come into the tables, where `useQuery` finds them. Components
 * that ask for the same share one subscription, which outlives them for a while.
 */
export declare function useSubscription<N extends keyof RegisteredQueries & string>(
  query: N,
  ...params: {} extends RegisteredQueries[N] ? [params?: RegisteredQueries[N]] : [params: RegisteredQueries[N]]
): SubscriptionState;

/** `mutate` of the client: the same function in every render. */
export declare function useMutate(): RegisteredClient['mutate'];

/** The status, or the part of it that `select` returns: the component renders again only when that changes. */
export declare function useStatus(): Status;
export declare function useStatus<T>(select: (status: Status) => T): T;
