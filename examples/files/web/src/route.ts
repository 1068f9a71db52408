// Which page one is on, as the address says: the list, a file, or the public page of one.

import { useMemo, useSyncExternalStore } from 'react';

export type Route = { page: 'files' } | { page: 'file'; id: string } | { page: 'published'; slug: string };

export const FILES = '#/';
const [FILE, PUBLISHED] = ['#/file/', '#/publish/'];

/** The page of a file, within this one. */
export const hashOf = (id: string): string => `${FILE}${encodeURIComponent(id)}`;

/** The address of a file. */
export const linkTo = (id: string): string => `${location.origin}${location.pathname}${hashOf(id)}`;

/** The address of the public page of a file. */
export const linkToPublished = (slug: string): string =>
  `${location.origin}${location.pathname}${PUBLISHED}${encodeURIComponent(slug)}`;

function routeOf(hash: string): Route {
  try {
    if (hash.startsWith(FILE)) return { page: 'file', id: decodeURIComponent(hash.slice(FILE.length)) };
    if (hash.startsWith(PUBLISHED)) return { page: 'published', slug: decodeURIComponent(hash.slice(PUBLISHED.length)) };
  } catch {
    // Not everything that stands behind a percent sign is a letter.
  }
  return { page: 'files' };
}

function subscribe(listener: () => void): () => void {
  addEventListener('hashchange', listener);
  return () => removeEventListener('hashchange', listener);
}

export function useRoute(): Route {
  const hash = useSyncExternalStore(subscribe, () => location.hash);
  return useMemo(() => routeOf(hash), [hash]);
}
