// Which part of the page one sees: a point of the page is on the screen at its coordinates times the zoom, plus an
// offset. Wheels and two fingers move and zoom; what one looks at stays where it is.

import { useCallback, useEffect, useMemo, useRef, useState } from 'react';
import type { RefObject } from 'react';
import type { Box, Point } from './shapes';

export interface Camera {
  x: number;
  y: number;
  zoom: number;
}

const [FURTHEST, NEAREST] = [0.1, 8];
/** The empty edge around what is shown whole, in pixels. */
const EDGE = 64;

export function onPage({ x, y, zoom }: Camera, at: Point): Point {
  return { x: (at.x - x) / zoom, y: (at.y - y) / zoom };
}

/** Zooms by a factor, around a point on the screen. */
export function zoomed(camera: Camera, factor: number, around: Point): Camera {
  const zoom = Math.min(NEAREST, Math.max(FURTHEST, camera.zoom * factor));
  const by = zoom / camera.zoom;
  return { x: around.x - (around.x - camera.x) * by, y: around.y - (around.y - camera.y) * by, zoom };
}

/** Shows a box whole, in the middle, and not larger than it is. */
export function fitted(box: Box | null, width: number, height: number): Camera {
  if (!box) return { x: width / 2, y: height / 2, zoom: 1 };
  const zoom = Math.max(
    FURTHEST,
    Math.min(1, (width - 2 * EDGE) / Math.max(box.w, 1), (height - 2 * EDGE) / Math.max(box.h, 1)),
  );
  return { x: width / 2 - (box.x + box.w / 2) * zoom, y: height / 2 - (box.y + box.h / 2) * zoom, zoom };
}

export interface View {
  camera: Camera;
  move: (dx: number, dy: number) => void;
  zoom: (factor: number, around?: Point) => void;
  /** Shows a box whole. */
  fit: (box: Box | null) => void;
  /** Where on the page something is that is at a place of the window. */
  at: (client: { clientX: number; clientY: number }) => Point;
  /** Where within the surface that is. */
  within: (client: { clientX: number; clientY: number }) => Point;
  /** The middle of what one sees. */
  middle: () => Point;
}

/** The camera over a surface, which wheels move. */
export function useView(surface: RefObject<Element | null>): View {
  const [camera, setCamera] = useState<Camera>({ x: 0, y: 0, zoom: 1 });
  const current = useRef(camera);
  current.current = camera;
  const size = useCallback(() => surface.current?.getBoundingClientRect() ?? new DOMRect(0, 0, 800, 600), [surface]);
  const actions = useMemo(() => {
    const within = ({ clientX, clientY }: { clientX: number; clientY: number }) => {
      const { left, top } = size();
      return { x: clientX - left, y: clientY - top };
    };
    const half = () => ({ x: size().width / 2, y: size().height / 2 });
    return {
      within,
      at: (client: { clientX: number; clientY: number }) => onPage(current.current, within(client)),
      middle: () => onPage(current.current, half()),
      move: (dx: number, dy: number) => setCamera((from) => ({ ...from, x: from.x + dx, y: from.y + dy })),
      zoom: (factor: number, around = half()) => setCamera((from) => zoomed(from, factor, around)),
      fit: (box: Box | null) => setCamera(fitted(box, size().width, size().height)),
    };
  }, [size]);
  useEffect(() => {
    const element = surface.current;
    if (!element) return undefined;
    const onWheel = (event: WheelEvent) => {
      // Or the browser would zoom or scroll its page.
      event.preventDefault();
      const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      const [dx, dy] = [event.deltaX * unit, event.deltaY * unit];
      if (event.ctrlKey || event.metaKey) actions.zoom(Math.exp(-dy / 200), actions.within(event));
      else if (event.shiftKey && dx === 0) actions.move(-dy, 0);
      else actions.move(-dx, -dy);
    };
    element.addEventListener('wheel', onWheel as EventListener, { passive: false });
    return () => element.removeEventListener('wheel', onWheel as EventListener);
  }, [surface, actions]);
  return { camera, ...actions };
}
