// The list: who one is, how the connection stands, and the files one sees, one's own and those of
// others.

import { useStatus } from '@rowtide/react';
import { useCallback, useDeferredValue, useEffect, useRef, useState } from 'react';
import { Banner } from './Banner';
import { useWrite } from './data';
import type { Deletions } from './deletions';
import { FileRow } from './FileRow';
import * as files from './files';
import { useListed } from './listed';
import type { Filter } from './listed';
import { Menu } from './Menu';
import { ShareDialog } from './ShareDialog';

const FILTERS: [Filter, string][] = [
  ['all', 'All'],
  ['mine', 'Mine'],
  ['guest', 'Shared with me'],
  ['pinned', 'Pinned'],
];

interface Props {
  user: string;
  deletions: Deletions;
  /** The file that one comes back from. */
  visited: string | null;
  onSignOut: () => void;
}

export function Files({ user, deletions, visited, onSignOut }: Props) {
  const [search, setSearch] = useState('');
  const [filter, setFilter] = useState<Filter>('all');
  const [shared, setShared] = useState<string | null>(null);
  const [renamed, setRenamed] = useState<string | null>(null);
  const { hidden, remove, finishAll } = deletions;
  const { listed, counts, me, isLoading } = useListed(user, filter, useDeferredValue(search), hidden);
  const write = useWrite();
  const status = useStatus();
  const field = useSearchKey();
  const create = () => {
    const id = crypto.randomUUID();
    setSearch('');
    setFilter('all');
    write((tx) => files.create(tx, user, id, 'Untitled'));
    setRenamed(id);
  };
  const signOut = () => {
    finishAll();
    onSignOut();
  };
  const endRenaming = useCallback(() => setRenamed(null), []);
  return (
    <>
      <header className="top">
        <h1>
          <img src="/icon.svg" alt="" width="26" height="26" /> Files
        </h1>
        <input
          ref={field}
          type="search"
          value={search}
          aria-label="Search files"
          placeholder="Search"
          onChange={(event) => setSearch(event.target.value)}
        />
        <button type="button" className="primary" onClick={create}>
          New file
        </button>
        <Menu
          label={`Signed in as ${me?.name ?? user}`}
          face={<Face name={me?.name ?? user} />}
          items={[{ label: `Sign out ${me?.name ?? user}`, run: signOut }]}
        />
      </header>
      <Banner status={status} />
      <main>
        <div className="filters" role="group" aria-label="Show">
          {FILTERS.map(([name, label]) => (
            <button key={name} type="button" aria-pressed={filter === name} onClick={() => setFilter(name)}>
              {label} <span className="count">{counts[name]}</span>
            </button>
          ))}
          <span className="saving">{status.pending > 0 ? `${status.pending} not saved yet` : ''}</span>
        </div>
        <ul className="files" aria-label="Files" aria-busy={isLoading}>
          {listed.map(({ file, state }) => (
            <FileRow
              key={file.id}
              file={file}
              state={state}
              user={user}
              isRenamed={renamed === file.id}
              isVisited={visited === file.id}
              onRename={setRenamed}
              onRenamed={endRenaming}
              onShare={setShared}
              onDelete={remove}
            />
          ))}
        </ul>
        {listed.length === 0 && <Empty isLoading={isLoading} search={search} filter={filter} />}
      </main>
      {shared !== null && <ShareDialog id={shared} onClose={() => setShared(null)} />}
    </>
  );
}

function Empty({ isLoading, search, filter }: { isLoading: boolean; search: string; filter: Filter }) {
  if (isLoading) return <p className="empty">Loading …</p>;
  if (search !== '') return <p className="empty">Nothing is called “{search}”.</p>;
  const words = {
    all: 'There are no files yet.',
    mine: 'You have no files yet.',
    guest: 'Nobody has shared a file with you. Open a link to one.',
    pinned: 'Pin a file, and it stays at the top.',
  };
  return <p className="empty">{words[filter]}</p>;
}

function Face({ name }: { name: string }) {
  return (
    <span className="face" aria-hidden="true">
      {name.slice(0, 1).toUpperCase()}
    </span>
  );
}

/** `/` leads to the search field, as one expects. */
function useSearchKey() {
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const isTyping = event.target instanceof HTMLElement && event.target.matches('input, textarea, select');
      if (event.key !== '/' || isTyping || event.ctrlKey || event.metaKey) return;
      field.current?.focus();
      event.preventDefault();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
  return field;
}
