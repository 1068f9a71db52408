// The types of the test kit: rules know the rows of the schema.
import { serial, testServer } from '@rowtide/client/testing';
import type { Schema } from './schema.js';

type Some = Pick<Schema, 'file' | 'file_state'>;

const server = testServer<Some>({
  tables: {
    file: {
      key: ['id'],
      visible: (file, auth, db) => file.shared || db.row('file_state', { userId: auth.userId, fileId: file.id }) !== undefined,
      update: (before, after) => before.shared && !after.shared,
      defaults: { createSource: null, id: serial },
      // @ts-expect-error there is no such column
      readonly: ['title'],
    },
    file_state: { key: ['userId', 'fileId'], insert: (state) => (state.stage === 'todo' ? true : 'too_late') },
  },
});

const name: string = server.write((tx) => tx.file.insert({ name: 'Plan' }).name);
const titles: string[] = server.rows('file', { shared: true }).map((file) => file.name);
const db = server.client('ann');
const shown: string | undefined = db.table('file').get('f1')?.name;
// @ts-expect-error there is no such table
server.rows('files');
// @ts-expect-error there is no such column
server.rows('file', { title: 'Plan' });

export { name, shown, titles };
