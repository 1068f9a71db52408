// How a drawing was before: one looks at a version, and makes the drawing what it was then.

import { useEffect, useRef, useState } from 'react';
import { useToast } from '../toasts';
import type { Rec } from './diff';
import { Refused, inWords, restore, version, versions } from './server';
import { Still } from './Still';

interface Props {
  user: string;
  file: string;
  onClose: () => void;
}

export function VersionsDialog({ user, file, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const toast = useToast();
  const [times, setTimes] = useState<string[] | null>(null);
  const [chosen, setChosen] = useState<string | null>(null);
  const [records, setRecords] = useState<Rec[] | null>(null);
  const [problem, setProblem] = useState('');
  const [isRestoring, setRestoring] = useState(false);
  useEffect(() => {
    dialog.current?.showModal();
    versions(user, file).then(
      (all) => {
        setTimes(all);
        setChosen(all[0] ?? null);
      },
      (error: unknown) => {
        if (error instanceof Refused && error.status === 404) setTimes([]);
        else setProblem(inWords(error));
      },
    );
  }, [user, file]);
  useEffect(() => {
    let isOver = false;
    setRecords(null);
    if (chosen === null) return undefined;
    version(user, file, chosen).then(
      (found) => !isOver && setRecords(found),
      (error: unknown) => !isOver && setProblem(inWords(error)),
    );
    return () => {
      isOver = true;
    };
  }, [user, file, chosen]);
  const restoreChosen = async (time: string) => {
    setRestoring(true);
    setProblem('');
    try {
      await restore(user, file, time);
      toast({ text: `The drawing is as it was ${when(time)}.` });
      onClose();
    } catch (error) {
      setProblem(inWords(error));
      setRestoring(false);
    }
  };
  return (
    <dialog ref={dialog} className="versions" aria-labelledby="versions-title" onClose={onClose}>
      <h2 id="versions-title">Older versions</h2>
      {problem !== '' && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
      {times?.length === 0 && (
        <p>There are none yet. A version is kept when a drawing is saved, a few seconds after a change.</p>
      )}
      {times !== null && times.length > 0 && (
        <div className="choice">
          <ul aria-label="Versions">
            {times.map((time) => (
              <li key={time}>
                <button type="button" aria-pressed={time === chosen} onClick={() => setChosen(time)}>
                  {when(time)}
                </button>
              </li>
            ))}
          </ul>
          <div className="preview">
            {records ? <Still records={records} label="The version" /> : <p className="nothing">Loading …</p>}
          </div>
        </div>
      )}
      <div className="actions">
        {chosen !== null && (
          <button
            type="button"
            className="primary"
            disabled={!records || isRestoring}
            onClick={() => void restoreChosen(chosen)}
          >
            Restore this version
          </button>
        )}
        <form method="dialog">
          <button type="submit" className="plain">
            Close
          </button>
        </form>
      </div>
    </dialog>
  );
}

const FORMAT = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'medium', hourCycle: 'h23' });

/** A time as a person reads it, where they are. */
function when(time: string): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? time : FORMAT.format(date);
}
