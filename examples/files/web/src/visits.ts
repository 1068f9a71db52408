// Whoever has opened a file of somebody else has it in their list from then on, however they came to it.

import { useClient, useStatus } from '@rowtide/react';
import { useCallback, useEffect, useState } from 'react';
import { useWrite } from './data';
import * as files from './files';

/** Takes down that a file was opened, as soon as that is possible. */
export function useVisits(user: string): (id: string) => void {
  const client = useClient();
  const write = useWrite();
  const isLive = useStatus((status) => status.connection === 'live');
  const [opened, setOpened] = useState<readonly string[]>([]);
  useEffect(() => {
    // Only with up-to-date rows it is known whether the file is in the list already.
    if (!isLive || opened.length === 0) return;
    setOpened([]);
    for (const id of opened) {
      if (client.table('file_state').get({ userId: user, fileId: id })) continue;
      write((tx) => files.visit(tx, user, id), 'This file is not in your list: it is no longer shared.');
    }
  }, [opened, isLive, client, user, write]);
  return useCallback((id) => setOpened((others) => [...others, id]), []);
}
