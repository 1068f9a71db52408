// A program in a runtime that lacks what browsers have, as React Native does: a client against the server
// that it is given, which prints what it shows.
import WebSocket from 'ws';

for (const name of [
  'TextDecoder', 'TextEncoder', 'crypto', 'indexedDB', 'BroadcastChannel', 'navigator', 'addEventListener',
  'removeEventListener', 'structuredClone', 'atob', 'btoa', 'document', 'window', 'reportError', 'Blob', 'URL',
]) {
  Object.defineProperty(globalThis, name, { value: undefined, configurable: true });
}
const { createClient } = await import('../src/index.js');
const { subscriptions } = await import('../src/subscriptions.js');

const [url, token, table, key, column] = process.argv.slice(2);
const db = createClient({ url, token: () => token, WebSocket, subscriptions: subscriptions() });
const made = await new Promise((resolve) => {
  const look = () => {
    if (db.status.get().connection !== 'live') return;
    stop();
    resolve(db.mutate((tx) => tx[table].update({ id: JSON.parse(key), [column]: 'Wörter, 文, 🙂' })));
  };
  const stop = db.status.subscribe(look);
});
await made.confirmed;
console.log(JSON.stringify({ user: db.status.get().user, id: made.id, row: db.table(table).get(JSON.parse(key)) }));
await db.close();
