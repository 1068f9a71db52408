// The text of a note: a document of Yjs, in CodeMirror, over y-websocket as it comes from npm.

import { EditorState } from '@codemirror/state';
import { EditorView, basicSetup } from 'codemirror';
import { yCollab } from 'y-codemirror.next';
import { WebsocketProvider } from 'y-websocket';
import * as Y from 'yjs';
import { colour, person, token } from './people.js';

/** Why a note is closed for good; after anything else the provider comes back. */
const REASONS = {
  NOT_FOUND: 'This note is not there any more.',
  FORBIDDEN: 'You may not read this note any more.',
  NOT_AUTHENTICATED: 'Sign in again to go on.',
  ROOM_FULL: 'Too many people have this note open.',
};

/**
 * Opens a note in `parent`. `onChange` is told with `{ status, people }` whenever one of them is another.
 * @returns what closes it
 */
export async function openText(note, { parent, mayEdit, onChange }) {
  const doc = new Y.Doc();
  const text = doc.getText('text');
  const url = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/doc/note`;
  const provider = new WebsocketProvider(url, encodeURIComponent(note), doc, {
    params: { accessToken: await token() },
    // Tabs of one browser may be signed in as different people here.
    disableBc: true,
  });
  provider.awareness.setLocalStateField('user', { name: person(), color: colour(person()) });
  let status = 'Connecting …';
  const tell = () => {
    const states = [...provider.awareness.getStates().values()];
    onChange({ status, people: [...new Set(states.flatMap((state) => state.user?.name ?? []))].sort() });
  };
  provider.awareness.on('change', tell);
  provider.on('sync', (synced) => {
    if (synced) status = mayEdit ? 'Everyone sees what you write.' : 'You may read this note.';
    tell();
  });
  provider.on('closed', ({ reason }) => {
    status = REASONS[reason] ?? `This note was closed: ${reason}`;
    tell();
  });
  provider.on('connection-close', async () => {
    status = 'Offline: what you write is kept here, and sent later.';
    tell();
    // The one before may have expired.
    provider.params.accessToken = await token().catch(() => provider.params.accessToken);
  });
  const view = new EditorView({
    parent,
    state: EditorState.create({
      doc: text.toString(),
      extensions: [
        basicSetup,
        EditorView.lineWrapping,
        EditorView.darkTheme.of(matchMedia('(prefers-color-scheme: dark)').matches),
        EditorState.readOnly.of(!mayEdit),
        EditorView.editable.of(mayEdit),
        EditorView.contentAttributes.of({ 'aria-label': 'Text of the note' }),
        yCollab(text, provider.awareness),
      ],
    }),
  });
  tell();
  return () => {
    view.destroy();
    provider.destroy();
    doc.destroy();
  };
}
