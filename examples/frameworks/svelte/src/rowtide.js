// What a component of Svelte follows: `current` is read like state, and changes with the client as long as somebody reads it.
import { createSubscriber } from 'svelte/reactivity';

/** The rows of a table or a query. */
export function rows(query) {
  const follow = createSubscriber((update) => query.subscribe(update));
  return {
    get current() {
      follow();
      return query.all();
    },
  };
}

/** `db.status`, or a subscription. */
export function observed(value) {
  const follow = createSubscriber((update) => value.subscribe(update));
  return {
    get current() {
      follow();
      return value.get();
    },
  };
}
