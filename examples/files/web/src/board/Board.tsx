// The page of a file: its drawing, who else is there, and what its owner may do with it. The row says whose it is and
// what it is called; the document says whether one may draw, and why it is closed.

import { useRow } from '@rowtide/react';
import { useEffect, useRef, useState, useSyncExternalStore } from 'react';
import { useWrite } from '../data';
import * as files from '../files';
import { Menu } from '../Menu';
import { Rename } from '../Rename';
import { FILES } from '../route';
import { ShareDialog } from '../ShareDialog';
import { useToast } from '../toasts';
import { useLasting } from '../lasting';
import { useView } from './camera';
import { Canvas } from './Canvas';
import { OpenDocument } from './connection';
import type { Reason } from './connection';
import { Editor, colourOf, peersOf } from './editor';
import { useKeys } from './keys';
import { PublishDialog } from './PublishDialog';
import { addressOf } from './server';
import { SCHEMA, boxAround, boxOf, nameOf } from './shapes';
import { Toolbar } from './Toolbar';
import { VersionsDialog } from './VersionsDialog';

/** Why a document is closed for good, in words. */
const CLOSED: Record<Reason, [string, string]> = {
  NOT_FOUND: ['This file is gone', 'It was deleted, or it never was there.'],
  FORBIDDEN: ['This file is not shared with you', 'Ask its owner to share it, and come again.'],
  NOT_AUTHENTICATED: ['Please sign in again', 'The server no longer knows who you are.'],
  CLIENT_TOO_OLD: ['Please reload', 'This drawing was made with a newer version of this page.'],
  SERVER_TOO_OLD: ['This drawing is of another program', 'It was made with something that this page cannot draw.'],
  INVALID_RECORD: ['Something here was not accepted', 'The server did not take your last change. Open the file again.'],
  RATE_LIMITED: ['That was a little fast', 'Wait a moment, and open the file again.'],
  ROOM_FULL: ['Too many people are here', 'Come again when somebody has left.'],
  UNKNOWN_ERROR: ['This file was closed', 'The server does not say why.'],
};

/** How long something may take before it is said, in milliseconds. */
const PATIENCE = 600;
/** How long a file may take to open before it is said that the server does not answer, in milliseconds. */
const LONG = 5_000;

interface Props {
  user: string;
  id: string;
  /** Called when the drawing of a file is there. */
  onOpened: (id: string) => void;
}

export function Board({ user, id, onOpened }: Props) {
  const me = useRow('user', user);
  // Whoever tries again begins anew.
  const [attempt, setAttempt] = useState(0);
  const [editor, setEditor] = useState<Editor | null>(null);
  const name = me?.name ?? user;
  useEffect(() => {
    const session = crypto.randomUUID();
    const document = new OpenDocument({ address: () => addressOf(user, id, session), schema: SCHEMA });
    setEditor(new Editor(document, user));
    return () => document.close();
  }, [user, id, attempt]);
  useEffect(() => editor?.introduce(name), [editor, name]);
  if (!editor) return null;
  const retry = () => setAttempt(attempt + 1);
  return (
    <Opened key={`${attempt} ${id}`} editor={editor} user={user} me={name} id={id} onOpened={onOpened} onRetry={retry} />
  );
}

interface OpenedProps extends Props {
  editor: Editor;
  /** One's own name. */
  me: string;
  onRetry: () => void;
}

function Opened({ editor, user, me, id, onOpened, onRetry }: OpenedProps) {
  useSyncExternalStore(editor.subscribe, editor.version);
  const file = useRow('file', id);
  const write = useWrite();
  const surface = useRef<SVGSVGElement>(null);
  const view = useView(surface);
  const [dialog, setDialog] = useState<'share' | 'publish' | 'versions' | null>(null);
  const [isRenamed, setRenamed] = useState(false);
  const { document } = editor;
  const { status } = document;
  const isOwner = file?.ownerId === user;
  const isOpening = useLasting(status.is === 'connecting', PATIENCE);
  const isUnanswered = useLasting(status.is === 'connecting', LONG);
  const isSlow = useLasting(!document.isSaved, PATIENCE);
  useKeys(editor, view);
  useFitting(editor, view.fit);
  useLeaving(document);
  useDropped(document);
  const isOpen = status.is === 'live';
  useEffect(() => {
    if (isOpen) onOpened(id);
  }, [isOpen, onOpened, id]);
  const isNoLongerEmpty = isOwner && file.isEmpty && editor.shapes.length > 0 && isOpen;
  useEffect(() => {
    if (isNoLongerEmpty) write((tx) => tx.file.update({ id, isEmpty: false }));
  }, [isNoLongerEmpty, id, write]);
  const name = file?.name ?? nameOf(document.records) ?? '';
  useTitle(name);
  const percent = `${Math.round(view.camera.zoom * 100)}%`;
  const showAll = () => view.fit(boxAround(editor.shapes.map(boxOf)));
  const closeDialog = () => setDialog(null);
  return (
    <div className="board">
      <header className="head">
        <a className="icon" href={FILES} aria-label="Back to the files" title="Back to the files">
          <svg viewBox="0 0 20 20" aria-hidden="true">
            <path d="M12.500 4.500L7 10l5.500 5.500" />
          </svg>
        </a>
        {isRenamed && file ? (
          <Rename file={file} onRenamed={() => setRenamed(false)} />
        ) : (
          <h1>
            {isOwner ? (
              <button type="button" title="Rename" onClick={() => setRenamed(true)}>
                {name}
              </button>
            ) : (
              name
            )}
          </h1>
        )}
        <span className="saving" role="status">
          {status.is === 'live' && isSlow && 'Saving …'}
          {status.is === 'live' && status.isReadonly && <span className="badge">View only</span>}
        </span>
        <People editor={editor} user={user} me={me} />
        {isOwner && (
          <>
            <button type="button" className="primary" onClick={() => setDialog('share')}>
              Share
            </button>
            <Menu
              label="More"
              face={
                <svg viewBox="0 0 20 20" aria-hidden="true" className="dots">
                  <path d="M4 10h.01M10 10h.01M16 10h.01" />
                </svg>
              }
              items={[
                { label: file.published ? 'Published …' : 'Publish …', run: () => setDialog('publish') },
                { label: 'Older versions …', run: () => setDialog('versions') },
              ]}
            />
          </>
        )}
      </header>
      {status.is === 'offline' && <Offline isSaved={document.isSaved} />}
      <main>
        {status.is === 'closed' ? (
          <Closed reason={status.reason} onRetry={onRetry} />
        ) : (
          <>
            <Canvas editor={editor} view={view} surface={surface} />
            {editor.canEdit && <Toolbar editor={editor} />}
            {isOpening && (
              <p className="hint" role="status">
                {isUnanswered ? 'The server does not answer. Trying again …' : 'Opening …'}
              </p>
            )}
            {status.is === 'live' && status.isReadonly && (
              <p className="hint">You can look, but not draw. The others see where you point.</p>
            )}
            {editor.canEdit && editor.shapes.length === 0 && (
              <p className="hint">Take a tool, and draw. Others see it at once.</p>
            )}
            <div className="zoom" role="group" aria-label="Zoom">
              <button type="button" aria-label="Zoom out" onClick={() => view.zoom(0.8)}>
                −
              </button>
              <button type="button" aria-label={`${percent}: show everything`} title="Show everything (0)" onClick={showAll}>
                {percent}
              </button>
              <button type="button" aria-label="Zoom in" onClick={() => view.zoom(1.25)}>
                +
              </button>
            </div>
          </>
        )}
      </main>
      {dialog === 'share' && <ShareDialog id={id} onClose={closeDialog} />}
      {dialog === 'publish' && file && <PublishDialog file={file} onClose={closeDialog} />}
      {dialog === 'versions' && <VersionsDialog user={user} file={id} onClose={closeDialog} />}
    </div>
  );
}

/** Everybody who is there, each once, also in several windows. */
function People({ editor, user, me }: { editor: Editor; user: string; me: string }) {
  const others = new Map(peersOf(editor.document).map((peer) => [peer.userId, peer]));
  others.delete(user);
  const people = [...others.values()].sort((a, b) => a.name.localeCompare(b.name));
  return (
    <ul className="people-here" aria-label="Who is here">
      {people.map((peer) => (
        <li key={peer.userId} title={peer.name} style={{ background: peer.color }}>
          <span aria-hidden="true">{peer.name.slice(0, 1).toUpperCase()}</span>
          <span className="unseen">{peer.name}</span>
        </li>
      ))}
      <li title={`${me} (you)`} style={{ background: colourOf(user) }}>
        <span aria-hidden="true">{me.slice(0, 1).toUpperCase()}</span>
        <span className="unseen">You</span>
      </li>
    </ul>
  );
}

function Offline({ isSaved }: { isSaved: boolean }) {
  return (
    <p className="banner" role="status">
      <b>You are offline.</b>{' '}
      {isSaved
        ? 'You can go on drawing as long as this page stays open; it is sent when you are back.'
        : 'What you draw is kept as long as this page stays open, and sent when you are back.'}
    </p>
  );
}

function Closed({ reason, onRetry }: { reason: Reason; onRetry: () => void }) {
  const [title, text] = CLOSED[reason] ?? CLOSED.UNKNOWN_ERROR;
  return (
    <div className="notice" role="alert">
      <h2>{title}</h2>
      <p>{text}</p>
      <div className="actions">
        <button type="button" className="plain" onClick={onRetry}>
          Try again
        </button>
        <a className="primary" href={FILES}>
          Back to the files
        </a>
      </div>
    </div>
  );
}

/** Shows the whole drawing when it is there for the first time. */
function useFitting(editor: Editor, fit: (box: ReturnType<typeof boxAround>) => void): void {
  const isLoaded = editor.document.status.is !== 'connecting';
  useEffect(() => {
    fit(boxAround(editor.shapes.map(boxOf)));
  }, [isLoaded, editor, fit]);
}

/** Names the window. */
function useTitle(name: string): void {
  useEffect(() => {
    const before = document.title;
    if (name !== '') document.title = name;
    return () => {
      document.title = before;
    };
  }, [name]);
}

/** Asks whoever leaves the page whether they want to lose what the server has not got. */
function useLeaving(document: OpenDocument): void {
  useEffect(() => {
    const onLeave = (event: BeforeUnloadEvent) => {
      if (!document.isSaved && document.status.is !== 'closed') event.preventDefault();
    };
    addEventListener('beforeunload', onLeave);
    return () => removeEventListener('beforeunload', onLeave);
  }, [document]);
}

/** Says so when one may only look by now, and changes were not taken. */
function useDropped(document: OpenDocument): void {
  const toast = useToast();
  const { dropped } = document;
  useEffect(() => {
    const text = 'You may only look at this file now. What you drew last was not kept.';
    if (dropped > 0) toast({ text, kind: 'rejection' });
  }, [dropped, toast]);
}
