import type { ReactNode } from 'react';
import type { Client, KeyOf, Query, Status, Table, Untyped } from '@rowtide/client';

/**
 * Where an application names its schema, once:
 *
 *     declare module '@rowtide/react' { interface Register { schema: Schema } }
 */
export interface Register {}
type RegisteredSchema = Register extends { schema: infer S } ? S : Untyped;
type Names = keyof RegisteredSchema & string;
type RowOf<T extends Names> = Table<RegisteredSchema, T> extends Query<infer R> ? R : never;

/** Provides `client` to the components inside. */
export declare function RowtideProvider(props: { client: Client<any>; children?: ReactNode }): ReactNode;

/** The client of the provider. */
export declare function useClient(): Client<RegisteredSchema>;

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

/** `mutate` of the client: the same function in every render. */
export declare function useMutate(): Client<RegisteredSchema>['mutate'];

/** The status, or the part of it that `select` returns: the component renders again only when that changes. */
export declare function useStatus(): Status;
export declare function useStatus<T>(select: (status: Status) => T): T;
