// The client of this application: its tables, its version, and what a person sees of a rejection.

import { createClient } from '@rowtide/client';
import type { Client, Transaction as Tx } from '@rowtide/client';
import { useMutate } from '@rowtide/react';
import { useCallback } from 'react';
import { token } from './account';
import { inWords } from './rejections';
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

/** Increase it when the server should no longer accept writes of older pages: see `min_client` in rowtide.toml. */
const APP_VERSION = 1;

/** A client of `user`, with a copy in this browser. */
export function openClient(user: string): Client<Schema> {
  return createClient<Schema>({
    url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/sync`,
    token: () => token(user),
    tables,
    user,
    appVersion: APP_VERSION,
  });
}

/** Makes a mutation, which shows at once. If the server rejects it, a toast says `failure` or why. */
export function useWrite(): (work: (tx: Transaction) => void, failure?: string) => void {
  const mutate = useMutate();
  const toast = useToast();
  return useCallback(
    (work, failure) => {
      const rejected = (error: unknown) => toast({ text: failure ?? inWords(error), kind: 'rejection' });
      try {
        mutate(work).confirmed.catch(rejected);
      } catch (error) {
        // The client could not accept it.
        rejected(error);
      }
    },
    [mutate, toast],
  );
}
