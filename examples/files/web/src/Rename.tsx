import { useEffect, useRef } from 'react';
import { useWrite } from './data';
import type { File } from './data';
import * as files from './files';

/** Asks for another name of a file, in the place of the one it has. */
export function Rename({ file, onRenamed }: { file: File; onRenamed: () => void }) {
  const write = useWrite();
  const field = useRef<HTMLInputElement>(null);
  const isDone = useRef(false);
  useEffect(() => {
    field.current?.select();
  }, []);
  const end = (isKept: boolean) => {
    if (isDone.current) return;
    isDone.current = true;
    const name = field.current?.value.trim() ?? '';
    if (isKept && name !== '' && name !== file.name) write((tx) => files.rename(tx, file.id, name));
    onRenamed();
  };
  return (
    <input
      ref={field}
      className="rename"
      defaultValue={file.name}
      aria-label={`New name of ${file.name}`}
      autoFocus
      maxLength={200}
      onBlur={() => end(true)}
      onKeyDown={(event) => {
        if (event.key === 'Enter') end(true);
        if (event.key === 'Escape') end(false);
      }}
    />
  );
}
