// What a drawing is made of. The records have the form that tldraw's documents have (a document, its page, shapes on
// it); the kinds of shapes are this board's own, and its schema says so.

import { difference } from './diff';
import type { Diff, JsonObject, ObjectDiff, Rec } from './diff';

/** Increase it whenever older pages could not read what this one writes: the server keeps the two apart. */
export const SCHEMA = { schemaVersion: 2, sequences: { 'rowtide.board': 1 } };

export const COLOURS = ['ink', 'red', 'amber', 'green', 'blue', 'violet'] as const;
export type Colour = (typeof COLOURS)[number];

interface Props {
  rectangle: { w: number; h: number; text: string; color: Colour };
  /** Points at `x + dx, y + dy`. */
  arrow: { dx: number; dy: number; color: Colour };
  text: { text: string; size: number; color: Colour };
  /** Points one after the other, x and y in turn. */
  draw: { points: number[]; color: Colour };
}

export type Kind = keyof Props;

type Of<K extends Kind> = Rec & {
  typeName: 'shape';
  type: K;
  x: number;
  y: number;
  /** Orders shapes from the lowest to the highest. */
  index: string;
  props: Props[K];
};
export type Shape = { [K in Kind]: Of<K> }[Kind];

export interface Box {
  x: number;
  y: number;
  w: number;
  h: number;
}

export interface Point {
  x: number;
  y: number;
}

const PAGE = 'page:page';
const KINDS: readonly string[] = ['rectangle', 'arrow', 'text', 'draw'] satisfies Kind[];

/** The shapes that this board knows, from the lowest to the highest. */
export function shapesOf(records: Iterable<Rec>): Shape[] {
  const shapes = [...records].filter(isShape);
  return shapes.sort((a, b) => (a.index < b.index ? -1 : a.index > b.index ? 1 : a.id < b.id ? -1 : 1));
}

/** Whether records can be drawn, which never changes. */
const drawable = new WeakMap<Rec, boolean>();

function isShape(record: Rec): record is Shape {
  const known = drawable.get(record) ?? isDrawable(record);
  drawable.set(record, known);
  return known;
}

const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);

/** Whether a record is a shape that can be drawn here: anybody may have written it. */
function isDrawable(record: Rec): boolean {
  const { typeName, type, props } = record;
  if (typeName !== 'shape' || !KINDS.includes(type as string) || typeof record.index !== 'string') return false;
  if (!isNumber(record.x) || !isNumber(record.y) || typeof props !== 'object' || props === null) return false;
  const { w, h, dx, dy, size, text, points, color } = props as JsonObject;
  if (!COLOURS.includes(color as Colour)) return false;
  switch (type as Kind) {
    case 'rectangle':
      return isNumber(w) && isNumber(h) && w >= 0 && h >= 0 && typeof text === 'string';
    case 'arrow':
      return isNumber(dx) && isNumber(dy);
    case 'text':
      return isNumber(size) && size > 0 && typeof text === 'string';
    case 'draw':
      return Array.isArray(points) && points.length >= 2 && points.every(isNumber);
  }
}

/** The name of the document, which follows the name of its file. */
export function nameOf(records: ReadonlyMap<string, Rec>): string | undefined {
  const name = records.get('document:document')?.name;
  return typeof name === 'string' && name !== '' ? name : undefined;
}

/** A new shape, above all others. */
export function create<K extends Kind>(kind: K, at: Point, props: Props[K], shapes: readonly Shape[]): Shape {
  const shape: Omit<Of<Kind>, 'type' | 'props'> = {
    id: `shape:${crypto.randomUUID()}`,
    typeName: 'shape',
    parentId: PAGE,
    index: above(shapes.at(-1)?.index),
    x: round(at.x),
    y: round(at.y),
    rotation: 0,
    isLocked: false,
    opacity: 1,
    meta: {},
  };
  return { ...shape, type: kind, props } as unknown as Shape;
}

/** A shape with other properties. */
export function withProps(shape: Shape, props: Partial<Props[Kind]>): Shape {
  return { ...shape, props: { ...shape.props, ...props } } as Shape;
}

/** What makes the shapes `next` of those that were there: a shape that is not among them any more is removed. */
export function changes(before: readonly Shape[], next: readonly Shape[]): Diff {
  const had = new Map(before.map((shape) => [shape.id, shape]));
  const diff: { [id: string]: Diff[string] } = {};
  for (const shape of next) {
    const own = had.get(shape.id);
    const patch: ObjectDiff | null = own ? difference(own, shape) : null;
    if (!own) diff[shape.id] = ['put', shape];
    else if (patch) diff[shape.id] = ['patch', patch];
    had.delete(shape.id);
  }
  for (const id of had.keys()) diff[id] = ['remove'];
  return diff;
}

const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

/**
 * An index above another: the next whole number in the order in which tldraw has them, which is a letter that says how
 * many digits follow (`a` one, `b` two …), and the digits.
 */
export function above(index: string | undefined): string {
  const head = index?.[0] ?? '';
  if (index === undefined || head < 'a' || head > 'y') return index === undefined ? 'a1' : `${index}V`;
  const digits = [...index.slice(1, head.charCodeAt(0) - 95)];
  for (let at = digits.length - 1; at >= 0; at -= 1) {
    const next = DIGITS[DIGITS.indexOf(digits[at] ?? '') + 1];
    if (next) {
      digits[at] = next;
      return head + digits.join('');
    }
    digits[at] = '0';
  }
  return `${String.fromCharCode(head.charCodeAt(0) + 1)}${digits.join('')}0`;
}

/** Coordinates are kept to a tenth: nobody sees more, and it is a third of the bytes. */
export const round = (value: number): number => Math.round(value * 10) / 10;

export const LINE_HEIGHT = 1.3;
/** The size of a text, and of what is written in a rectangle. */
export const TEXT_SIZE = 20;
const LEAST_TEXT = 6;
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif';
let context: CanvasRenderingContext2D | null | undefined;

/** How wide a line of text is. */
function widthOf(line: string, size: number): number {
  context ??= document.createElement('canvas').getContext('2d');
  if (!context) return line.length * size * 0.55;
  context.font = `${size}px ${FONT}`;
  return context.measureText(line).width;
}

/** The lines of what is written in a rectangle, broken where they would be too wide. */
export function linesIn(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split('\n')) {
    let line = '';
    for (const word of paragraph.split(' ')) {
      const longer = line === '' ? word : `${line} ${word}`;
      if (line !== '' && widthOf(longer, TEXT_SIZE) > width) {
        lines.push(line);
        line = word;
      } else line = longer;
    }
    lines.push(line);
  }
  return lines;
}

/** The box around a shape. */
export function boxOf(shape: Shape): Box {
  const { x, y } = shape;
  switch (shape.type) {
    case 'rectangle':
      return { x, y, w: shape.props.w, h: shape.props.h };
    case 'arrow': {
      const { dx, dy } = shape.props;
      return { x: x + Math.min(dx, 0), y: y + Math.min(dy, 0), w: Math.abs(dx), h: Math.abs(dy) };
    }
    case 'text': {
      const { text, size } = shape.props;
      const lines = text.split('\n');
      const widest = Math.max(size / 2, ...lines.map((line) => widthOf(line, size)));
      return { x, y, w: widest, h: lines.length * size * LINE_HEIGHT };
    }
    case 'draw': {
      const { points } = shape.props;
      const [xs, ys] = [0, 1].map((axis) => points.filter((_, at) => at % 2 === axis)) as [number[], number[]];
      // There may be more than a function takes.
      const [left, top] = [xs, ys].map((all) => all.reduce((a, b) => Math.min(a, b), Infinity)) as [number, number];
      const [right, bottom] = [xs, ys].map((all) => all.reduce((a, b) => Math.max(a, b), -Infinity)) as [number, number];
      return { x: x + left, y: y + top, w: right - left, h: bottom - top };
    }
  }
}

/** The box around several; `null` if there are none. */
export function boxAround(boxes: readonly Box[]): Box | null {
  if (boxes.length === 0) return null;
  const x = Math.min(...boxes.map((box) => box.x));
  const y = Math.min(...boxes.map((box) => box.y));
  const right = Math.max(...boxes.map((box) => box.x + box.w));
  const bottom = Math.max(...boxes.map((box) => box.y + box.h));
  return { x, y, w: right - x, h: bottom - y };
}

/** The box between two corners. */
export function boxBetween(one: Point, other: Point): Box {
  return {
    x: Math.min(one.x, other.x),
    y: Math.min(one.y, other.y),
    w: Math.abs(one.x - other.x),
    h: Math.abs(one.y - other.y),
  };
}

export const touch = (a: Box, b: Box): boolean =>
  a.x <= b.x + b.w && b.x <= a.x + a.w && a.y <= b.y + b.h && b.y <= a.y + a.h;

export function moved(shape: Shape, dx: number, dy: number): Shape {
  return { ...shape, x: round(shape.x + dx), y: round(shape.y + dy) };
}

/** A shape, as it is when a box around it becomes another one. */
export function resized(shape: Shape, from: Box, to: Box): Shape {
  const sx = from.w > 0 ? to.w / from.w : 1;
  const sy = from.h > 0 ? to.h / from.h : 1;
  const there = { ...shape, x: round(to.x + (shape.x - from.x) * sx), y: round(to.y + (shape.y - from.y) * sy) };
  switch (shape.type) {
    case 'rectangle':
      return withProps(there, { w: round(shape.props.w * sx), h: round(shape.props.h * sy) });
    case 'arrow':
      return withProps(there, { dx: round(shape.props.dx * sx), dy: round(shape.props.dy * sy) });
    case 'text':
      return withProps(there, { size: Math.max(LEAST_TEXT, round(shape.props.size * Math.min(sx, sy))) });
    case 'draw':
      return withProps(there, { points: shape.props.points.map((value, at) => round(value * (at % 2 === 0 ? sx : sy))) });
  }
}
