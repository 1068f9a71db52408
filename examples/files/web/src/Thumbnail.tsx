// A small drawing that is always the same for a file: enough to find it again by eye.

import { memo } from 'react';

export const Thumbnail = memo(function Thumbnail({ id, isEmpty }: { id: string; isEmpty: boolean }) {
  const next = numbers(id);
  const hue = Math.floor(next() * 360);
  const dots = Array.from({ length: 4 }, (_, index) => [8 + index * 9 + next() * 4, 10 + next() * 20] as const);
  const line = dots.map(([x, y], index) => `${index === 0 ? 'M' : 'L'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
  const [first, , third] = dots;
  return (
    <svg className="thumbnail" viewBox="0 0 44 40" aria-hidden="true" style={{ '--hue': hue } as React.CSSProperties}>
      <rect width="44" height="40" rx="7" />
      <path className={isEmpty ? 'nothing' : undefined} d={isEmpty ? 'M22 15v10M17 20h10' : line} />
      {!isEmpty && first && third && (
        <>
          <circle cx={third[0]} cy={third[1]} r={4.5} />
          <rect className="shape" x={first[0] - 4} y={first[1] - 4} width="8" height="8" rx="1.500" />
        </>
      )}
    </svg>
  );
});

/** Numbers from 0 to 1 that follow from `text`. */
function numbers(text: string): () => number {
  let state = 2_166_136_261;
  for (const letter of text) state = Math.imul(state ^ letter.charCodeAt(0), 16_777_619);
  return () => {
    state = Math.imul(state ^ (state >>> 15), 2_246_822_519) + 0x9e3779b9;
    return ((state ^ (state >>> 13)) >>> 0) / 2 ** 32;
  };
}
