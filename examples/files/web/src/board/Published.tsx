// The public page of a drawing: a copy as it was when its owner published it, for everybody.

import { useEffect, useState } from 'react';
import { FILES } from '../route';
import type { Rec } from './diff';
import { inWords, published } from './server';
import { nameOf } from './shapes';
import { Still } from './Still';

/** How often to look whether a copy has come that is not there yet, in milliseconds, and how often at most. */
const [BETWEEN, LOOKS] = [600, 5];

type Found = { is: 'looking' } | { is: 'there'; records: Rec[] } | { is: 'missing' } | { is: 'failed'; why: string };

export function Published({ slug }: { slug: string }) {
  const [found, setFound] = useState<Found>({ is: 'looking' });
  useEffect(() => {
    let [isOver, looks] = [false, 0];
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = async () => {
      looks += 1;
      const next: Found = await published(slug).then(
        (records) => (records ? { is: 'there', records } : { is: 'missing' }),
        (error: unknown) => ({ is: 'failed', why: inWords(error) }),
      );
      if (isOver) return;
      // Who follows the link right after it was published may be faster than the copy.
      if (next.is === 'missing' && looks < LOOKS) timer = setTimeout(() => void look(), BETWEEN);
      else setFound(next);
    };
    setFound({ is: 'looking' });
    void look();
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, [slug]);
  const name = found.is === 'there' ? nameOf(new Map(found.records.map((record) => [record.id, record]))) : undefined;
  return (
    <div className="board">
      <header className="head">
        <a className="icon" href={FILES} aria-label="Files" title="Files">
          <img src="/icon.svg" alt="" width="24" height="24" />
        </a>
        <h1>{name ?? 'A drawing'}</h1>
        <span className="badge">Published</span>
      </header>
      <main>
        {found.is === 'there' ? (
          <Still records={found.records} label="Published drawing" />
        ) : (
          <div className="notice" role="status">
            {found.is === 'looking' && <p>Looking for the drawing …</p>}
            {found.is === 'missing' && (
              <>
                <h2>Nothing is published here</h2>
                <p>Its owner may have taken it back. If they have just published it, reload in a moment.</p>
              </>
            )}
            {found.is === 'failed' && <p>{found.why}</p>}
          </div>
        )}
      </main>
    </div>
  );
}
