// What the types of `@rowtide/tanstack-db` allow, and what they do not.
import { createCollection, createTransaction, eq, createLiveQueryCollection } from '@tanstack/db';
import { createClient } from '@rowtide/client';
import { confirmed, rowtideCollectionOptions, rowtideMutationFn } from '@rowtide/tanstack-db';

interface Note {
  id: string;
  text: string;
  done: boolean;
}
type Schema = { note: { row: Note; insert: Note; update: Partial<Note>; key: 'id' } };

const client = createClient<Schema>({ url: 'ws://localhost/sync', token: () => '' });
const notes = createCollection(rowtideCollectionOptions({ client, table: 'note' }));
// @ts-expect-error there is no such table
rowtideCollectionOptions({ client, table: 'nope' });

const text: string | undefined = notes.get('n1')?.text;
// @ts-expect-error a text is no number
const wrong: number | undefined = notes.get('n1')?.text;
const inserted = notes.insert({ id: 'n1', text: 'one', done: false });
// @ts-expect-error a column of another type
notes.insert({ id: 'n1', text: 1, done: false });
notes.update('n1', (draft) => {
  draft.done = true;
});
const answer: Promise<void> = confirmed(inserted);
const several = createTransaction({ mutationFn: rowtideMutationFn(client) });
several.mutate(() => notes.delete('n1'));
const open = createLiveQueryCollection((q) => q.from({ note: notes }).where(({ note }) => eq(note.done, false)));
const title: string | undefined = open.toArray[0]?.text;
export { answer, several, text, title, wrong };
