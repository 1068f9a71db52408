// A page to render into, and a client without a server.
import { JSDOM } from 'jsdom';

// React looks for a document when it is loaded.
const { window } = new JSDOM('<!doctype html><div></div>');
Object.assign(globalThis, { window, document: window.document, IS_REACT_ACT_ENVIRONMENT: true });
Object.defineProperty(globalThis, 'navigator', { value: window.navigator, configurable: true });
const { act, createElement } = await import('react');
const { createRoot } = await import('react-dom/client');
const { Optimistic } = await import('../../client/src/optimistic.js');
const { queries } = await import('../../client/src/queries.js');
const { Observed, Shown, TableQuery, subscribed } = await import('../../client/src/query.js');
const { Subscriptions } = await import('../../client/src/subscribing.js');
const { RowtideProvider } = await import('../src/index.js');

export { window };

/**
 * A client without a server.
 * @param {{ live?: boolean, core?: boolean }} [options] `live`: it has been; `core`: without `queries`
 */
export function offline({ live = true, core = false } = {}) {
  const optimistic = new Optimistic({ note: { key: ['id'] } });
  optimistic.lead();
  const shown = new Shown(optimistic);
  const tables = new Map();
  const subscriptions = new Subscriptions(shown.bell, 0);
  const status = new Observed(shown.bell, { connection: live ? 'live' : 'connecting', pending: 0 });
  const tableOf = core ? (name) => new TableQuery(shown, name) : queries()(shown, status, subscriptions);
  const onAcked = new Set();
  const step = ({ changes, acked }) => {
    shown.changed(changes);
    status.set({ ...status.get(), pending: optimistic.pending().length });
    for (const one of acked) shown.bell.ring(onAcked, one);
  };
  const connected = (lastMutation) => step(optimistic.apply({ type: 'connected', mode: 'resume', lastMutation, refused: [], tables: { note: { key: ['id'] } } }));
  connected(0);
  let mutations = 0;
  return {
    subscribe: (what, params) => (typeof what === 'function' ? shown.subscribe(what) : subscriptions.subscribe(what, params)),
    subscription: (query, params) => subscriptions.state(query, params),
    subscriptions,
    onAcked: (listener) => subscribed(onAcked, listener),
    table(name) {
      if (!tables.has(name)) tables.set(name, tableOf(name));
      return tables.get(name);
    },
    status,
    mutate: (write) => write,
    write(...ops) {
      mutations += 1;
      step(optimistic.mutate(mutations.toString(16).padStart(32, '0'), ops.map((op) => ({ table: 'note', ...op }))));
    },
    /** The server acknowledges all mutations, with what they have done. */
    ack({ rows = [], keys } = {}) {
      while (optimistic.nextToSend(100, () => true));
      const changes = rows.map((row) => ({ op: 'put', table: 'note', row }));
      step(optimistic.apply({ type: 'tx', cursor: '2', ack: optimistic.last, keys, changes }));
    },
    /** The connection begins anew. */
    connected,
    ready: () => step(optimistic.apply({ type: 'ready', cursor: '3' })),
    send: () => optimistic.nextToSend(100, () => true),
    tx(...rows) {
      const change = (row) => ({ op: row.text === undefined ? 'delete' : 'put', table: 'note', row });
      step(optimistic.apply({ type: 'tx', cursor: '1', changes: rows.map(change) }));
    },
  };
}

/** What the page shows. */
export const text = () => document.querySelector('div').textContent;

/** Renders with a client; `show` again renders something else into the same place. */
export function page() {
  const root = createRoot(document.querySelector('div'));
  return {
    root,
    show: (client, element, wrap = (inner) => inner) => act(() => root.render(wrap(createElement(RowtideProvider, { client }, element)))),
    leave: () => act(() => root.unmount()),
  };
}
