import type { ClientOptions } from './index.js';

/**
 * Lets a client order, limit and count rows, keeps the results of queries change by change, and shares them: give it to
 * `createClient` as `queries`.
 */
export declare function queries(): NonNullable<ClientOptions['queries']>;
