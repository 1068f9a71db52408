// Deletes with “Undo”. The rules do not let anybody restore a deleted file. So the page only hides the
// file at first, and makes the mutation when the toast with “Undo” has gone, or when the page closes.

import { useCallback, useEffect, useRef, useState } from 'react';
import { useWrite } from './data';
import type { File } from './data';
import * as files from './files';
import { useToast } from './toasts';

export type Deletions = ReturnType<typeof useDeletions>;

export function useDeletions() {
  const [hidden, setHidden] = useState<ReadonlySet<string>>(new Set());
  const waiting = useRef(new Set<string>());
  const write = useWrite();
  const toast = useToast();
  const show = useCallback((id: string) => {
    waiting.current.delete(id);
    setHidden(new Set(waiting.current));
  }, []);
  const finish = useCallback(
    (id: string) => {
      if (!waiting.current.has(id)) return;
      write((tx) => files.remove(tx, id));
      // From now on the row says that it is deleted. It shows again if the server rejects the mutation.
      show(id);
    },
    [write, show],
  );
  const remove = useCallback(
    (file: File) => {
      waiting.current.add(file.id);
      setHidden(new Set(waiting.current));
      toast({
        text: `“${file.name}” is deleted`,
        action: { label: 'Undo', run: () => show(file.id) },
        onGone: () => finish(file.id),
      });
    },
    [toast, show, finish],
  );
  const finishAll = useCallback(() => [...waiting.current].forEach(finish), [finish]);
  useEffect(() => {
    addEventListener('pagehide', finishAll);
    return () => removeEventListener('pagehide', finishAll);
  }, [finishAll]);
  return { hidden, remove, finishAll };
}
