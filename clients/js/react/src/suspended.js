/**
 * What a component waits for while it is suspended. React drops the state of a component that suspends before it was there, and
 * renders it again when a promise resolves: so the promises are kept here, one for all that wait for the same, and each resolves
 * once and when there is something to render.
 */

/** @typedef {import('@rowtide/client').Client} Client */

/** How long a subscription is held for a component that has waited for it and is not there yet, in ms. */
const HELD_MS = 5_000;

/** @type {WeakMap<Client, Map<string, Promise<void>>>} */
const waits = new WeakMap();

/**
 * @param {Client} client
 * @param {string} name of what is waited for
 * @param {(done: () => void) => void} begin calls `done` later
 */
function waitFor(client, name, begin) {
  let promises = waits.get(client);
  if (!promises) waits.set(client, (promises = new Map()));
  const waiting = promises.get(name);
  if (waiting) return waiting;
  const promise = /** @type {Promise<void>} */ (new Promise((resolve) => {
    begin(() => {
      // Who waits again waits for another time.
      promises.delete(name);
      resolve();
    });
  }));
  promises.set(name, promise);
  return promise;
}

/**
 * Resolves when rows are known. All queries of a client wait for the same.
 * @param {Client} client
 * @param {{ status: string, onStatus: (listener: (status: string) => void) => () => void }} query
 */
export function rowsKnown(client, query) {
  return waitFor(client, 'rows', (done) => {
    const stop = query.onStatus((status) => {
      if (status === 'loading') return;
      stop();
      done();
    });
  });
}

/**
 * Subscribes, and resolves when the rows are there or refused. The component subscribes itself once it is there.
 * @param {Client} client
 * @param {string} query
 * @param {string} params as JSON
 */
export function subscriptionSettled(client, query, params) {
  return waitFor(client, JSON.stringify([query, params]), (done) => {
    const subscription = client.subscribe(query, JSON.parse(params));
    const stop = subscription.subscribe(({ status }) => {
      if (status === 'loading') return;
      stop();
      /** @type {any} Node's timers keep the process */
      const timer = setTimeout(() => subscription.unsubscribe(), HELD_MS);
      timer.unref?.();
      done();
    });
  });
}
