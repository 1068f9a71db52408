// The client of this application: its tables, its version, and how what is refused is said.

import { createClient } from '@rowtide/client';
import type { Client, Transaction as Tx } from '@rowtide/client';
import { useMutate } from '@rowtide/react';
import { useCallback } from 'react';
import { token } from './account';
import { inWords } from './refusals';
import { tables } from './schema';
import type { Schema } from './schema';
import { useToast } from './toasts';

declare module '@rowtide/react' {
  interface Register {
    schema: Schema;
  }
}

export type File = Readonly<Schema['file']['row']>;
export type FileState = Readonly<Schema['file_state']['row']>;
export type Transaction = Tx<Schema>;

/** Raised when the server may no longer take what an older page writes: see `min_client` in rowtide.toml. */
const APP_VERSION = 1;

/** A client of `user`, whose copy is kept in this browser. */
export function openClient(user: string): Client<Schema> {
  return createClient<Schema>({
    url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/sync`,
    token: () => token(user),
    tables,
    user,
    appVersion: APP_VERSION,
  });
}

/** Writes at once what `work` does; if it is refused, it is taken back, and `failure` or general words say so. */
export function useWrite(): (work: (tx: Transaction) => void, failure?: string) => void {
  const mutate = useMutate();
  const toast = useToast();
  return useCallback(
    (work, failure) => {
      const refused = (error: unknown) => toast({ text: failure ?? inWords(error), kind: 'refusal' });
      try {
        mutate(work).confirmed.catch(refused);
      } catch (error) {
        // It could not even be kept to be sent.
        refused(error);
      }
    },
    [mutate, toast],
  );
}
