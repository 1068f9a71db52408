// The files in the list and their order: pinned files first, then the latest.

import { useQuery, useRow, useStatus } from '@rowtide/react';
import { useMemo } from 'react';
import type { File, FileState } from './data';

export type Filter = 'all' | 'mine' | 'guest' | 'pinned';

export interface Listed {
  file: File;
  /** The user's own state for it. */
  state: FileState | undefined;
}

export function useListed(user: string, filter: Filter, search: string, hidden: ReadonlySet<string>) {
  // A new file that is not acknowledged yet has only the columns that were written.
  const files = useQuery('file', (file) => !file.isDeleted, []);
  const states = useQuery('file_state', { userId: user });
  const me = useRow('user', user);
  const connection = useStatus((status) => status.connection);
  const all = useMemo(() => {
    const byFile = new Map(states.map((each) => [each.fileId, each]));
    const present = files.filter((file) => !hidden.has(file.id));
    const listed: Listed[] = present.map((file) => ({ file, state: byFile.get(file.id) }));
    return listed.sort(inOrder);
  }, [files, states, hidden]);
  const counts = useMemo(() => count(all, user), [all, user]);
  const listed = useMemo(() => {
    const wanted = search.trim().toLowerCase();
    return all.filter((each) => isIn(filter, each, user) && matches(each.file, wanted));
  }, [all, filter, search, user]);
  return { listed, counts, me, isLoading: files.length === 0 && connection === 'connecting' };
}

function isIn(filter: Filter, { file, state }: Listed, user: string): boolean {
  switch (filter) {
    case 'mine':
      return file.ownerId === user;
    case 'guest':
      return file.ownerId !== user;
    case 'pinned':
      return state?.isPinned === true;
    default:
      return true;
  }
}

function count(all: Listed[], user: string): Record<Filter, number> {
  const counts = { all: 0, mine: 0, guest: 0, pinned: 0 };
  for (const each of all) {
    for (const filter of ['all', 'mine', 'guest', 'pinned'] as const) {
      if (isIn(filter, each, user)) counts[filter] += 1;
    }
  }
  return counts;
}

function matches(file: File, wanted: string): boolean {
  return file.name.toLowerCase().includes(wanted) || (file.ownerName ?? '').toLowerCase().includes(wanted);
}

function inOrder(one: Listed, other: Listed): number {
  const pins = Number(other.state?.isPinned ?? false) - Number(one.state?.isPinned ?? false);
  return pins || other.file.updatedAt - one.file.updatedAt || one.file.id.localeCompare(other.file.id);
}
