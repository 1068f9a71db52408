// Publishing a drawing and taking it back. Both are changes of the file's row; the server makes the copy, or drops it,
// a moment later.

import { useEffect, useRef, useState } from 'react';
import { useWrite } from '../data';
import type { File } from '../data';
import * as files from '../files';
import { linkToPublished } from '../route';
import { published } from './server';

/** How often to look whether the server has done it, in milliseconds, and for how long. */
const [BETWEEN, PATIENCE] = [300, 10_000];

export function PublishDialog({ file, onClose }: { file: File; onClose: () => void }) {
  const write = useWrite();
  const dialog = useRef<HTMLDialogElement>(null);
  const [isCopied, setCopied] = useState(false);
  const progress = useProgress(file);
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  const link = linkToPublished(file.publishedSlug);
  const publish = () => write((tx) => files.publish(tx, file));
  const unpublish = () => write((tx) => files.unpublish(tx, file.id));
  const copy = async () => {
    await navigator.clipboard.writeText(link);
    setCopied(true);
  };
  return (
    <dialog ref={dialog} className="publish" aria-labelledby="publish-title" onClose={onClose}>
      <h2 id="publish-title">Publish “{file.name}”</h2>
      <p>
        {file.published
          ? 'Everybody with the link sees the drawing as it was when you published it last, also without signing in.'
          : 'Everybody with a link will see a copy of the drawing as it is now, also without signing in.'}
      </p>
      {file.published && (
        <div className="link">
          <input readOnly value={link} aria-label="Link to the public page" onFocus={(event) => event.target.select()} />
          <button type="button" onClick={() => void copy()}>
            {isCopied ? 'Copied' : 'Copy link'}
          </button>
        </div>
      )}
      <p role="status" className="progress">
        {PROGRESS[progress]}
        {progress === 'public' && (
          <>
            {` Published last at ${TIME.format(file.lastPublished)}. `}
            <a href={link} target="_blank" rel="noreferrer">
              Open the public page
            </a>
          </>
        )}
      </p>
      <div className="actions">
        {file.published && (
          <button type="button" className="plain dangerous" onClick={unpublish}>
            Unpublish
          </button>
        )}
        <button type="button" className={file.published ? 'plain' : 'primary'} onClick={publish}>
          {file.published ? 'Publish again' : 'Publish'}
        </button>
        <form method="dialog">
          <button type="submit" className={file.published ? 'primary' : 'plain'}>
            Done
          </button>
        </form>
      </div>
    </dialog>
  );
}

const TIME = new Intl.DateTimeFormat('en', { timeStyle: 'medium' });

type Progress = 'private' | 'publishing' | 'public' | 'unpublishing' | 'late';

const PROGRESS: Record<Progress, string> = {
  private: '',
  publishing: 'Publishing: the page is there in a moment …',
  public: 'It is public.',
  unpublishing: 'The page goes in a moment …',
  late: 'The server has not done it yet. It will; look again later.',
};

/** How far the server is with what the row says. */
function useProgress({ published: isPublished, publishedSlug, lastPublished }: File): Progress {
  const [progress, setProgress] = useState<Progress>(isPublished ? 'public' : 'private');
  useEffect(() => {
    let isOver = false;
    const until = Date.now() + PATIENCE;
    const look = async () => {
      const isThere = await published(publishedSlug).then((copy) => copy !== null, () => null);
      if (isOver) return;
      if (isThere === isPublished) setProgress(isPublished ? 'public' : 'private');
      else if (Date.now() > until) setProgress('late');
      else {
        setProgress(isPublished ? 'publishing' : 'unpublishing');
        setTimeout(() => void look(), BETWEEN);
      }
    };
    void look();
    return () => {
      isOver = true;
    };
  }, [isPublished, publishedSlug, lastPublished]);
  return progress;
}
