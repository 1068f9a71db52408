'use client';

import { open, useIssues, useStatus } from './rowtide.js';
import { ME, PROJECT } from './tracker.js';

const byId = (a, b) => (a.id < b.id ? -1 : 1);

export function Issues({ given, url }) {
  const issues = useIssues(url, given);
  const { connection, pending } = useStatus(url);
  const mutate = (write) => open(url).db.mutate(write);

  // Whether a row waits changes with how many mutations do.
  const isPending = (id) => pending > 0 && open(url).db.table('issue').isPending(id);

  const add = (event) => {
    event.preventDefault();
    const title = new FormData(event.currentTarget).get('title');
    event.currentTarget.reset();
    mutate((tx) => tx.issue.insert({ id: crypto.randomUUID(), project_id: PROJECT, title, status: 'open', author_id: ME }));
  };
  const finish = (id, done) => mutate((tx) => tx.issue.update({ id, status: done ? 'done' : 'open' }));

  return (
    <>
      <h1>Issues</h1>
      <form onSubmit={add}><input name="title" aria-label="New issue" required /></form>
      <ul>
        {[...issues].sort(byId).map(({ id, title, status }) => (
          <li key={id} aria-busy={isPending(id)}>
            <label>
              <input type="checkbox" checked={status === 'done'} onChange={(event) => finish(id, event.target.checked)} />
              {title}
            </label>
            <button aria-label={`Delete ${title}`} onClick={() => mutate((tx) => tx.issue.delete(id))}>×</button>
          </li>
        ))}
      </ul>
      <p role="status">{connection}, {pending} not sent yet</p>
    </>
  );
}
