import type { ClientOptions } from './index.js';

export interface SubscriptionsOptions {
  /** How long a subscription is kept after its last use, in milliseconds. Default: 300,000 (five minutes). */
  ttl?: number;
}

/** Lets a client subscribe to queries of the server's definition: give it to `createClient` as `subscriptions`. */
export declare function subscriptions(options?: SubscriptionsOptions): NonNullable<ClientOptions['subscriptions']>;
