// Deleting with a way back. The rules let nobody bring a deleted file back, so a file is hidden first,
// and written as deleted when the toast that offers to undo it has gone, or the page goes.

import { useCallback, useEffect, useRef, useState } from 'react';
import { useWrite } from './data';
import type { File } from './data';
import * as files from './files';
import { useToast } from './toasts';

export function useDeletions() {
  const [hidden, setHidden] = useState<ReadonlySet<string>>(new Set());
  const waiting = useRef(new Set<string>());
  const write = useWrite();
  const toast = useToast();
  const show = useCallback((id: string) => {
    waiting.current.delete(id);
    setHidden(new Set(waiting.current));
  }, []);
  const settle = useCallback(
    (id: string) => {
      if (!waiting.current.has(id)) return;
      write((tx) => files.remove(tx, id));
      // From here on the row itself says that it is deleted, or is back if that is refused.
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
        onGone: () => settle(file.id),
      });
    },
    [toast, show, settle],
  );
  const settleAll = useCallback(() => [...waiting.current].forEach(settle), [settle]);
  useEffect(() => {
    addEventListener('pagehide', settleAll);
    return () => removeEventListener('pagehide', settleAll);
  }, [settleAll]);
  return { hidden, remove, settleAll };
}
