// A drawing to look at, which nobody changes: a published copy, or an older version.

import { useEffect, useMemo, useRef, useState } from 'react';
import type { PointerEvent } from 'react';
import { useView } from './camera';
import type { Rec } from './diff';
import { Fingers } from './fingers';
import { ShapeView } from './ShapeView';
import { boxAround, boxOf, shapesOf } from './shapes';

export function Still({ records, label }: { records: readonly Rec[]; label: string }) {
  const surface = useRef<SVGSVGElement>(null);
  const view = useView(surface);
  const shapes = useMemo(() => shapesOf(records), [records]);
  const fingers = useState(() => new Fingers())[0];
  const { fit, camera } = view;
  useEffect(() => fit(boxAround(shapes.map(boxOf))), [shapes, fit]);
  const release = (event: PointerEvent) => fingers.release(event.pointerId);
  return (
    <div className="surface">
      <svg
        ref={surface}
        className="using-nothing still"
        role="group"
        aria-label={label}
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          fingers.press(event.pointerId, view.within(event));
        }}
        onPointerMove={(event) => fingers.follow(event.pointerId, view.within(event), view)}
        onPointerUp={release}
        onPointerCancel={release}
      >
        <g transform={`translate(${camera.x} ${camera.y}) scale(${camera.zoom})`}>
          {shapes.map((shape) => (
            <ShapeView key={shape.id} shape={shape} />
          ))}
        </g>
      </svg>
      {shapes.length === 0 && <p className="nothing">There is nothing on it.</p>}
    </div>
  );
}
