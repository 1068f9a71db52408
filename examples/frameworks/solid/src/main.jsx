import { For, createSignal } from 'solid-js';
import { render } from 'solid-js/web';
import { ME, PROJECT, db } from './db.js';
import { createObserved, createRows } from './rowtide.js';
import './style.css';

function App() {
  const issues = createRows(db.table('issue').where({ project_id: PROJECT }));
  const status = createObserved(db.status);
  const [title, setTitle] = createSignal('');

  // Whether a row waits changes with how many mutations do.
  const isPending = (id) => status().pending > 0 && db.table('issue').isPending(id);

  const add = (event) => {
    event.preventDefault();
    const row = { id: crypto.randomUUID(), project_id: PROJECT, title: title(), status: 'open', author_id: ME };
    db.mutate((tx) => tx.issue.insert(row));
    setTitle('');
  };
  const finish = (id, done) => db.mutate((tx) => tx.issue.update({ id, status: done ? 'done' : 'open' }));
  const remove = (id) => db.mutate((tx) => tx.issue.delete(id));

  return (
    <>
      <h1>Issues</h1>
      <form onSubmit={add}>
        <input value={title()} onInput={(event) => setTitle(event.currentTarget.value)} aria-label="New issue" required />
      </form>
      <ul>
        <For each={issues()}>
          {(issue) => (
            <li aria-busy={isPending(issue.id)}>
              <label>
                <input
                  type="checkbox"
                  checked={issue.status === 'done'}
                  onChange={(event) => finish(issue.id, event.currentTarget.checked)}
                />
                {issue.title}
              </label>
              <button aria-label={`Delete ${issue.title}`} onClick={() => remove(issue.id)}>×</button>
            </li>
          )}
        </For>
      </ul>
      <p role="status">{status().connection}, {status().pending} not sent yet</p>
    </>
  );
}

render(() => <App />, document.querySelector('main'));
