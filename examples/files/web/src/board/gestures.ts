// What fingers, pens and mice do on the surface. One gesture goes on at a time, from a press to its release; it knows
// what it began with, and makes everything anew of that with each move. A second finger turns it into moving the page.

import { useRef, useState } from 'react';
import type { FocusEvent, KeyboardEvent, MouseEvent, PointerEvent } from 'react';
import type { View } from './camera';
import type { Editor } from './editor';
import { Fingers } from './fingers';
import { TEXT_SIZE, boxAround, boxBetween, boxOf, moved, resized, round, touch, withProps } from './shapes';
import type { Box, Point, Shape } from './shapes';

/** The corners by which a selection is resized. */
export const CORNERS = [
  { name: 'nw', right: 0, bottom: 0 },
  { name: 'ne', right: 1, bottom: 0 },
  { name: 'sw', right: 0, bottom: 1 },
  { name: 'se', right: 1, bottom: 1 },
] as const;

type Corner = (typeof CORNERS)[number];
type Arrow = Shape & { type: 'arrow' };

type Gesture =
  | { readonly is: 'panning'; readonly began: Point }
  | { readonly is: 'selecting'; readonly from: Point; readonly had: readonly string[] }
  | { readonly is: 'moving'; readonly from: Point; readonly shapes: readonly Shape[]; isBegun: boolean }
  | { readonly is: 'resizing'; readonly shapes: readonly Shape[]; readonly around: Box; readonly corner: Corner }
  | { readonly is: 'bending'; readonly shape: Arrow; readonly end: 'start' | 'end' }
  | { readonly is: 'framing'; readonly shape: Shape; readonly from: Point }
  | { readonly is: 'drawing'; readonly id: string; readonly from: Point }
  | { readonly is: 'placing'; readonly from: Point };

/** What a press without a move makes, in pixels of the page. */
const USUAL = { w: 160, h: 100 };
/** The least that a selection is made, in pixels of the page. */
const LEAST = 4;
/** How far a press may move and still be a tap, in pixels of the screen. */
const TAP = 4;

export function useGestures(editor: Editor, view: View) {
  const gesture = useRef<Gesture | null>(null);
  const isSpaceDown = useRef(false);
  const fingers = useRef(new Fingers()).current;
  const [marquee, setMarquee] = useState<Box | null>(null);
  const [isPanning, setPanning] = useState(false);

  const pan = (event: PointerEvent) => {
    gesture.current = { is: 'panning', began: view.within(event) };
    setPanning(true);
  };

  const press = (event: PointerEvent<SVGSVGElement>) => {
    if (event.button > 1) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    // The field of a text that is being written loses the focus by this, and ends.
    event.currentTarget.focus({ preventScroll: true });
    fingers.press(event.pointerId, view.within(event));
    if (fingers.count > 1) {
      giveUp();
      pan(event);
    } else if (event.button === 1 || isSpaceDown.current || !editor.canEdit) pan(event);
    else if (editor.tool === 'select') pressToSelect(event);
    else begin(view.at(event));
  };

  const pressToSelect = (event: PointerEvent) => {
    const from = view.at(event);
    const target = event.target as Element;
    const handle = target.closest<SVGElement>('[data-handle]')?.dataset.handle;
    const id = shapeUnder(editor, event)?.id;
    editor.mark();
    if (handle !== undefined) gesture.current = bending(editor, handle) ?? resizing(editor, handle);
    else if (id !== undefined) {
      const isSelected = editor.isSelected(id);
      const others = editor.selected.map((shape) => shape.id).filter((other) => other !== id);
      if (event.shiftKey) editor.select(isSelected ? others : [...others, id]);
      else if (!isSelected) editor.select([id]);
      gesture.current = { is: 'moving', from, shapes: editor.selected, isBegun: false };
    } else if (event.pointerType === 'touch') pan(event);
    else {
      gesture.current = { is: 'selecting', from, had: event.shiftKey ? editor.selected.map((shape) => shape.id) : [] };
      if (!event.shiftKey) editor.select([]);
    }
  };

  const begin = (from: Point) => {
    editor.mark();
    const { color } = editor;
    if (editor.tool === 'draw') {
      const { id } = editor.add('draw', from, { points: [0, 0], color });
      gesture.current = { is: 'drawing', id, from };
    } else gesture.current = { is: 'placing', from };
  };

  const move = (event: PointerEvent<SVGSVGElement>) => {
    const at = view.at(event);
    editor.point(at);
    const now = gesture.current;
    fingers.follow(event.pointerId, view.within(event), now?.is === 'panning' ? view : null);
    switch (now?.is) {
      case 'selecting': {
        const box = boxBetween(now.from, at);
        setMarquee(box);
        const inside = editor.shapes.filter((shape) => touch(boxOf(shape), box)).map((shape) => shape.id);
        editor.select([...now.had, ...inside]);
        break;
      }
      case 'moving': {
        const [dx, dy] = [at.x - now.from.x, at.y - now.from.y];
        if (!now.isBegun && Math.hypot(dx, dy) * view.camera.zoom < TAP) break;
        now.isBegun = true;
        put(now.shapes, (shape) => moved(shape, dx, dy));
        break;
      }
      case 'resizing': {
        const isAlike = event.shiftKey || now.shapes.every((shape) => shape.type === 'text');
        const to = dragged(now.around, now.corner, at, isAlike);
        put(now.shapes, (shape) => resized(shape, now.around, to));
        break;
      }
      case 'bending': {
        const { shape, end } = now;
        const tip = { x: shape.x + shape.props.dx, y: shape.y + shape.props.dy };
        put([shape], () => (end === 'end' ? arrowed(shape, shape, at) : arrowed(shape, at, tip)));
        break;
      }
      case 'framing':
        put([now.shape], (shape) => framed(shape, now.from, at, event.shiftKey));
        break;
      case 'drawing': {
        // All that the pen has passed since the last frame, where the browser tells.
        const passed = event.nativeEvent.getCoalescedEvents?.().map(view.at) ?? [];
        stroke(now.id, passed.length > 0 ? passed : [at], now.from);
        break;
      }
      case 'placing': {
        if (Math.hypot(at.x - now.from.x, at.y - now.from.y) * view.camera.zoom < TAP || editor.tool === 'text') break;
        place(now.from, at, event.shiftKey);
        break;
      }
      default:
    }
  };

  /** Makes something new of what the shapes were when the gesture began, if they are still there. */
  const put = (shapes: readonly Shape[], make: (shape: Shape) => Shape) => {
    const there = shapes.flatMap((shape) => editor.shape(shape.id) ?? []);
    const ids = new Set(there.map((shape) => shape.id));
    const next = shapes.filter((shape) => ids.has(shape.id)).map(make);
    const places = new Map(next.map((shape) => [shape.id, shape]));
    // Of what is there now only what the gesture changes becomes another: place and size.
    editor.replace(there, there.map((shape) => placed(shape, places.get(shape.id))));
  };

  const place = (from: Point, to: Point, isSquare: boolean) => {
    const { color } = editor;
    const shape =
      editor.tool === 'arrow'
        ? editor.add('arrow', from, { dx: round(to.x - from.x), dy: round(to.y - from.y), color })
        : editor.add('rectangle', from, { w: LEAST, h: LEAST, text: '', color });
    if (shape.type === 'arrow') gesture.current = { is: 'bending', shape, end: 'end' };
    else if (shape.type === 'rectangle') {
      gesture.current = { is: 'framing', shape, from };
      put([shape], (own) => framed(own, from, to, isSquare));
    }
    editor.select([shape.id]);
  };

  const stroke = (id: string, through: readonly Point[], from: Point) => {
    const shape = editor.shape(id);
    if (shape?.type !== 'draw') return;
    const more = through.flatMap(({ x, y }) => [round(x - from.x), round(y - from.y)]);
    editor.replace([shape], [withProps(shape, { points: [...shape.props.points, ...more] })]);
  };

  const release = (event: PointerEvent<SVGSVGElement>) => {
    fingers.release(event.pointerId);
    const done = gesture.current;
    // Of two fingers one has gone: the other goes on.
    if (done?.is === 'panning' && fingers.count > 0) return;
    gesture.current = null;
    setMarquee(null);
    setPanning(false);
    if (event.pointerType === 'touch') editor.point(null);
    if (event.type === 'pointercancel' || !done) return;
    if (done.is === 'placing') placeUsual(done.from);
    else if (done.is === 'panning') {
      const at = view.within(event);
      if (editor.tool === 'select' && Math.hypot(at.x - done.began.x, at.y - done.began.y) < TAP) editor.select([]);
    } else if (done.is === 'framing' || done.is === 'bending') editor.use('select');
  };

  /** What a tap with a tool makes, around a point of the page. */
  const placeUsual = (at: Point) => {
    editor.mark();
    const { tool, color } = editor;
    if (tool === 'text') {
      const shape = editor.add('text', { x: at.x, y: at.y - TEXT_SIZE / 2 }, { text: '', size: TEXT_SIZE, color });
      editor.use('select');
      editor.write(shape.id);
      return;
    }
    const corner = { x: at.x - USUAL.w / 2, y: at.y - USUAL.h / 2 };
    const shape =
      tool === 'arrow'
        ? editor.add('arrow', { x: corner.x, y: at.y }, { dx: USUAL.w, dy: 0, color })
        : editor.add('rectangle', corner, { ...USUAL, text: '', color });
    editor.use('select');
    editor.select([shape.id]);
  };

  /** A second finger has come: what the first has begun was no drawing. */
  const giveUp = () => {
    const now = gesture.current;
    const begun = now?.is === 'drawing' ? now.id : now?.is === 'framing' ? now.shape.id : null;
    const shape = begun !== null && editor.shape(begun);
    if (shape) editor.replace([shape], []);
    gesture.current = null;
    setMarquee(null);
  };

  const writeAt = (event: MouseEvent) => {
    if (!editor.canEdit || editor.tool !== 'select') return;
    const shape = shapeUnder(editor, event);
    editor.mark();
    if (shape?.type === 'text' || shape?.type === 'rectangle') editor.write(shape.id);
    else if (!shape) {
      editor.use('text');
      placeUsual(view.at(event));
    }
  };

  const onKey = (event: KeyboardEvent) => {
    if (event.key === ' ') {
      isSpaceDown.current = true;
      event.preventDefault();
    }
    if (event.key !== 'Enter' || !editor.canEdit) return;
    event.preventDefault();
    const [shape] = editor.selected;
    editor.mark();
    if (editor.tool === 'rectangle' || editor.tool === 'arrow' || editor.tool === 'text') placeUsual(view.middle());
    else if (shape?.type === 'text' || shape?.type === 'rectangle') editor.write(shape.id);
  };

  return {
    marquee,
    isPanning,
    onPointerDown: press,
    onPointerMove: move,
    onPointerUp: release,
    onPointerCancel: release,
    onPointerLeave: () => editor.point(null),
    onDoubleClick: writeAt,
    onKeyDown: onKey,
    onKeyUp: (event: KeyboardEvent) => {
      if (event.key === ' ') isSpaceDown.current = false;
    },
    // The surface takes the focus of a press, also if it is on a shape; with the keyboard one comes to each shape.
    onMouseDown: (event: MouseEvent) => event.preventDefault(),
    onFocus: (event: FocusEvent) => {
      const id = event.target.closest<SVGElement>('[data-shape]')?.dataset.shape;
      if (id !== undefined && !editor.isSelected(id)) editor.select([id]);
    },
  };
}

/** The smallest shape under a pointer: what a larger one encloses can be taken too. */
function shapeUnder(editor: Editor, { clientX, clientY }: { clientX: number; clientY: number }): Shape | undefined {
  const shapes = document.elementsFromPoint(clientX, clientY).flatMap((element) => {
    const id = element.closest<SVGElement>('[data-shape]')?.dataset.shape;
    return (id !== undefined && editor.shape(id)) || [];
  });
  const area = ({ w, h }: Box) => Math.max(w, 1) * Math.max(h, 1);
  return shapes.reduce<Shape | undefined>(
    (least, shape) => (least && area(boxOf(least)) <= area(boxOf(shape)) ? least : shape),
    undefined,
  );
}

function resizing(editor: Editor, handle: string): Gesture | null {
  const corner = CORNERS.find(({ name }) => name === handle);
  const shapes = editor.selected;
  const around = boxAround(shapes.map(boxOf));
  return corner && around ? { is: 'resizing', shapes, around, corner } : null;
}

function bending(editor: Editor, handle: string): Gesture | null {
  const [shape] = editor.selected;
  if (shape?.type !== 'arrow' || (handle !== 'start' && handle !== 'end')) return null;
  return { is: 'bending', shape, end: handle };
}

/** A box whose corner was dragged to a point; the opposite corner stays. */
function dragged(box: Box, corner: Corner, to: Point, isAlike: boolean): Box {
  let w = Math.max(LEAST, corner.right ? to.x - box.x : box.x + box.w - to.x);
  let h = Math.max(LEAST, corner.bottom ? to.y - box.y : box.y + box.h - to.y);
  if (isAlike && box.w > 0 && box.h > 0) {
    const scale = Math.max(w / box.w, h / box.h);
    [w, h] = [box.w * scale, box.h * scale];
  }
  // Nothing becomes of a line that is exactly level or upright.
  if (box.w === 0) w = 0;
  if (box.h === 0) h = 0;
  return { x: corner.right ? box.x : box.x + box.w - w, y: corner.bottom ? box.y : box.y + box.h - h, w, h };
}

/** A rectangle between two points. */
function framed(shape: Shape, from: Point, to: Point, isSquare: boolean): Shape {
  const side = Math.max(Math.abs(to.x - from.x), Math.abs(to.y - from.y));
  const end = { x: from.x + Math.sign(to.x - from.x) * side, y: from.y + Math.sign(to.y - from.y) * side };
  const { x, y, w, h } = boxBetween(from, isSquare ? end : to);
  const size = { w: Math.max(LEAST, round(w)), h: Math.max(LEAST, round(h)) };
  return withProps({ ...shape, x: round(x), y: round(y) }, size);
}

function arrowed(shape: Arrow, from: Point, to: Point): Shape {
  const at = { x: round(from.x), y: round(from.y) };
  return { ...shape, ...at, props: { ...shape.props, dx: round(to.x - at.x), dy: round(to.y - at.y) } };
}

/** A shape where another one is, and as large. Its colour and its text, which somebody else may have changed, stay. */
function placed(shape: Shape, as: Shape | undefined): Shape {
  if (!as) return shape;
  const { color: _, text: __, ...size } = as.props as { color: unknown; text?: unknown };
  return withProps({ ...shape, x: as.x, y: as.y }, size);
}
