/**
 * What an application that subscribes to queries gives to `createClient`, as `subscriptions`. An entry of its
 * own: who has no use for it does not load it.
 */
import { Subscriptions } from './subscribing.js';

/** How long a subscription is kept after its last use, in ms, unless the application says otherwise. */
const TTL_MS = 300_000;

/** @param {{ ttl?: number }} [options] `ttl`: how long a subscription is kept after its last use, in ms */
export function subscriptions({ ttl = TTL_MS } = {}) {
  return (/** @type {import('./query.js').Bell} */ bell) => new Subscriptions(bell, ttl);
}
