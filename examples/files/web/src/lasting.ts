import { useEffect, useState } from 'react';

/** Whether `is` has been true for `patience` milliseconds. */
export function useLasting(is: boolean, patience: number): boolean {
  const [isLasting, setLasting] = useState(false);
  useEffect(() => {
    if (!is) {
      setLasting(false);
      return undefined;
    }
    const timer = setTimeout(() => setLasting(true), patience);
    return () => clearTimeout(timer);
  }, [is, patience]);
  return is && isLasting;
}
