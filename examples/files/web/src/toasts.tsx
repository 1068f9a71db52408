// Short messages at the edge of the screen, which screen readers read out. They go by themselves, but not
// while a person points at one or has its button in focus.

import { createContext, useCallback, useContext, useEffect, useRef, useState } from 'react';
import type { ReactNode } from 'react';

/** How long a toast stays, in milliseconds. */
const STAY = 6_000;
/** The most toasts at a time. Another one replaces the oldest. */
const MOST = 3;

export interface Toast {
  text: string;
  kind?: 'rejection';
  /** The button, and what it does. */
  action?: { label: string; run: () => void };
  /** Called when the toast goes without a press of its button. */
  onGone?: () => void;
}

interface ShownToast extends Toast {
  id: number;
}

const ShowToast = createContext<(toast: Toast) => void>(() => undefined);

/** Shows a toast. */
export function useToast(): (toast: Toast) => void {
  return useContext(ShowToast);
}

export function Toasts({ children }: { children: ReactNode }) {
  const [shown, setShown] = useState<ShownToast[]>([]);
  const current = useRef<ShownToast[]>([]);
  const lastId = useRef(0);
  const keep = useCallback((toasts: ShownToast[]) => {
    current.current = toasts;
    setShown(toasts);
  }, []);
  const drop = useCallback(
    (id: number) => {
      const dropped = current.current.find((toast) => toast.id === id);
      keep(current.current.filter((toast) => toast.id !== id));
      dropped?.onGone?.();
    },
    [keep],
  );
  const press = useCallback(
    (id: number) => {
      const pressed = current.current.find((toast) => toast.id === id);
      keep(current.current.filter((toast) => toast.id !== id));
      pressed?.action?.run();
    },
    [keep],
  );
  const show = useCallback(
    (toast: Toast) => {
      lastId.current += 1;
      const [oldest] = current.current;
      if (oldest && current.current.length === MOST) drop(oldest.id);
      keep([...current.current, { ...toast, id: lastId.current }]);
    },
    [drop, keep],
  );
  return (
    <ShowToast value={show}>
      {children}
      <div className="toasts" role="status" aria-live="polite">
        {shown.map((toast) => (
          <OneToast key={toast.id} toast={toast} drop={drop} press={press} />
        ))}
      </div>
    </ShowToast>
  );
}

function OneToast({ toast, drop, press }: { toast: ShownToast; drop: (id: number) => void; press: (id: number) => void }) {
  const [isHeld, setHeld] = useState(false);
  const { id, action } = toast;
  useEffect(() => {
    if (isHeld) return undefined;
    const timer = setTimeout(() => drop(id), STAY);
    return () => clearTimeout(timer);
  }, [isHeld, drop, id]);
  const hold = () => setHeld(true);
  const release = () => setHeld(false);
  return (
    <div
      className={`toast ${toast.kind ?? ''}`}
      onPointerEnter={hold}
      onPointerLeave={release}
      onFocus={hold}
      onBlur={release}
    >
      <span>{toast.text}</span>
      {action && (
        <button type="button" onClick={() => press(id)}>
          {action.label}
        </button>
      )}
      <button type="button" className="close" aria-label="Dismiss" onClick={() => drop(id)}>
        ×
      </button>
    </div>
  );
}
