// The client is made in the browser, when a component first asks for it, and lives as long as the page. On the server there is none:
// it renders the rows that it gives to the page, and the page begins with the same ones, so both render the same.
import { useCallback, useSyncExternalStore } from 'react';
import { createClient } from '@rowtide/client';
import { PROJECT } from './tracker.js';

let opened;

async function token() {
  const answer = await fetch('/token', { method: 'POST' });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.text();
}

/** The client of this page, in the browser. @param {string} url */
export function open(url) {
  if (opened) return opened;
  const db = createClient({ url, token, tables: { issue: { key: ['id'] } } });
  opened = { db, issues: db.table('issue').where({ project_id: PROJECT }), isComplete: false };
  db.status.subscribe(({ connection }) => {
    if (connection === 'live') opened.isComplete = true;
  });
  return opened;
}

/** What is read from the client, or, on the server and while a page hydrates, what was given. */
function useOpened(url, read, given) {
  const subscribe = useCallback((listener) => {
    const { db, issues } = open(url);
    const stops = [issues.subscribe(listener), db.status.subscribe(listener)];
    return () => stops.forEach((stop) => stop());
  }, [url]);
  return useSyncExternalStore(subscribe, () => read(open(url)), () => given);
}

/** The issues: those that the server has given, until the client has those of the server or of its stored copy. */
export function useIssues(url, given) {
  const read = ({ db, issues, isComplete }) =>
    isComplete || issues.all().some(({ id }) => !db.table('issue').isPending(id)) ? issues.all() : given;
  return useOpened(url, read, given);
}

const ON_SERVER = { connection: 'connecting', pending: 0 };

/** `db.status`. */
export function useStatus(url) {
  return useOpened(url, ({ db }) => db.status.get(), ON_SERVER);
}
