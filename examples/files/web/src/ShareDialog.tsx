import { useRow } from '@rowtide/react';
import { useEffect, useRef, useState } from 'react';
import { useWrite } from './data';
import * as files from './files';
import type { Sharing } from './files';
import { linkTo } from './route';

const CHOICES: [Sharing, string, string][] = [
  ['private', 'Only you', 'Whoever had it in their list loses it.'],
  ['view', 'Anyone with the link can view', ''],
  ['edit', 'Anyone with the link can edit', ''],
];

/** Who may see a file, and the link to it. */
export function ShareDialog({ id, onClose }: { id: string; onClose: () => void }) {
  const file = useRow('file', id);
  const write = useWrite();
  const dialog = useRef<HTMLDialogElement>(null);
  const [isCopied, setCopied] = useState(false);
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  useEffect(() => {
    // Deleted elsewhere meanwhile.
    if (!file) onClose();
  }, [file, onClose]);
  if (!file) return null;
  const sharing = files.sharingOf(file);
  const link = linkTo(id);
  const copy = async () => {
    await navigator.clipboard.writeText(link);
    setCopied(true);
  };
  return (
    <dialog ref={dialog} className="share" aria-labelledby="share-title" onClose={onClose}>
      <h2 id="share-title">Share “{file.name}”</h2>
      <fieldset>
        <legend>Who may see it</legend>
        {CHOICES.map(([choice, label, hint]) => (
          <label key={choice}>
            <input
              type="radio"
              name="sharing"
              checked={sharing === choice}
              onChange={() => write((tx) => files.share(tx, id, choice))}
            />
            <span>
              {label}
              {hint && sharing !== 'private' && <small>{hint}</small>}
            </span>
          </label>
        ))}
      </fieldset>
      <div className="link" aria-disabled={sharing === 'private'}>
        <input
          readOnly
          value={link}
          aria-label="Link to the file"
          disabled={sharing === 'private'}
          onFocus={(event) => event.target.select()}
        />
        <button type="button" disabled={sharing === 'private'} onClick={() => void copy()}>
          {isCopied ? 'Copied' : 'Copy link'}
        </button>
      </div>
      <form method="dialog">
        <button type="submit" className="primary">
          Done
        </button>
      </form>
    </dialog>
  );
}
