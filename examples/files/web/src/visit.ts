// Links to files. A user who follows a link to a shared file has it in their list from then on.

import { useClient, useStatus } from '@rowtide/react';
import { useEffect, useRef, useState } from 'react';
import { useWrite } from './data';
import * as files from './files';

const PREFIX = '#/file/';

/** The address of a file. */
export function linkTo(id: string): string {
  return `${location.origin}${location.pathname}${PREFIX}${encodeURIComponent(id)}`;
}

function linked(): string | null {
  return location.hash.startsWith(PREFIX) ? decodeURIComponent(location.hash.slice(PREFIX.length)) : null;
}

/** The file of the link that the user has followed, if there is one. */
export function useVisit(user: string): string | null {
  const [id, setId] = useState(linked);
  const client = useClient();
  const write = useWrite();
  const isLive = useStatus((status) => status.connection === 'live');
  const written = useRef<string | null>(null);
  useEffect(() => {
    const onLink = () => setId(linked());
    addEventListener('hashchange', onLink);
    return () => removeEventListener('hashchange', onLink);
  }, []);
  useEffect(() => {
    // Only with up-to-date rows it is known whether the file is in the list already.
    if (id === null || !isLive || written.current === id) return;
    written.current = id;
    if (client.table('file_state').get({ userId: user, fileId: id })) return;
    write((tx) => files.visit(tx, user, id), 'This link does not work: the file is not shared, or not there.');
  }, [id, isLive, client, user, write]);
  return id;
}
