// What one does at the board, whatever it is drawn with: the tool, what is selected, and the commands on it. It changes
// the document through records alone, and remembers what to undo.

import type { OpenDocument } from './connection';
import { after } from './diff';
import type { Diff } from './diff';
import { changes, create, moved, round, shapesOf, withProps } from './shapes';
import type { Colour, Point, Shape } from './shapes';
import { Undoing } from './undoing';

export type Tool = 'select' | 'rectangle' | 'arrow' | 'text' | 'draw';

/** How far a copy is from what it was made of. */
const ASIDE = 20;

export class Editor {
  tool: Tool = 'select';
  color: Colour = 'ink';
  /** The shape whose text is being written. */
  writing: string | null = null;
  readonly document: OpenDocument;

  readonly #user: string;
  #name: string;
  readonly #undoing = new Undoing();
  readonly #listeners = new Set<() => void>();
  #selection: ReadonlySet<string> = new Set();
  #cursor: Point | null = null;
  /** The shapes of a revision of the document. */
  #known = { revision: -1, shapes: [] as readonly Shape[], byId: new Map<string, Shape>() };
  #version = 0;

  constructor(document: OpenDocument, user: string) {
    this.document = document;
    this.#user = user;
    this.#name = user;
    document.subscribe(() => {
      // Others may take the shape away, or the right to write.
      if (this.writing !== null && !(this.canEdit && this.shape(this.writing))) this.writing = null;
      this.#tell();
    });
    this.#present();
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** Another one whenever there is something else to see. */
  readonly version = (): number => this.#version;

  /** From the lowest to the highest. */
  get shapes(): readonly Shape[] {
    return this.#shapes().shapes;
  }

  get selected(): readonly Shape[] {
    return this.shapes.filter((shape) => this.#selection.has(shape.id));
  }

  get canEdit(): boolean {
    return this.document.isEditable;
  }

  get canUndo(): boolean {
    return this.canEdit && this.#undoing.canUndo;
  }

  get canRedo(): boolean {
    return this.canEdit && this.#undoing.canRedo;
  }

  isSelected(id: string): boolean {
    return this.#selection.has(id);
  }

  shape(id: string): Shape | undefined {
    return this.#shapes().byId.get(id);
  }

  select(ids: Iterable<string>): void {
    this.#selection = new Set(ids);
    this.#present();
    this.#tell();
  }

  use(tool: Tool): void {
    this.tool = tool;
    if (tool !== 'select') this.select([]);
    this.#tell();
  }

  /** What comes now is undone on its own. */
  mark(): void {
    this.#undoing.mark();
  }

  /** Makes the shapes `next` of the shapes `before`. */
  replace(before: readonly Shape[], next: readonly Shape[]): void {
    this.#apply(changes(before, next));
  }

  add(kind: Shape['type'], at: Point, props: Shape['props']): Shape {
    const shape = create(kind, at, props as never, this.shapes);
    this.replace([], [shape]);
    return shape;
  }

  /** Begins to write the text of a shape. */
  write(id: string): void {
    if (!this.canEdit) return;
    this.select([]);
    this.writing = id;
    this.#tell();
  }

  /** Ends writing. A text without any letter is gone. */
  written(): void {
    const shape = this.writing === null ? undefined : this.shape(this.writing);
    this.writing = null;
    if (shape?.type === 'text' && shape.props.text.trim() === '') this.replace([shape], []);
    else if (shape) this.select([shape.id]);
    this.#tell();
  }

  remove(): void {
    this.mark();
    this.replace(this.selected, []);
    this.select([]);
  }

  duplicate(): void {
    this.mark();
    const copies: Shape[] = [];
    for (const shape of this.selected) {
      const at = { x: shape.x + ASIDE, y: shape.y + ASIDE };
      copies.push(create(shape.type, at, shape.props as never, [...this.shapes, ...copies]));
    }
    this.replace([], copies);
    this.select(copies.map((copy) => copy.id));
  }

  nudge(dx: number, dy: number): void {
    this.mark();
    const { selected } = this;
    this.replace(selected, selected.map((shape) => moved(shape, dx, dy)));
  }

  /** Gives what is selected a colour, and all that is drawn from now on. */
  paint(color: Colour): void {
    this.mark();
    this.color = color;
    const { selected } = this;
    this.replace(selected, selected.map((shape) => withProps(shape, { color })));
    this.#tell();
  }

  undo(): void {
    if (this.canEdit) this.#turn(this.#undoing.undo());
  }

  redo(): void {
    if (this.canEdit) this.#turn(this.#undoing.redo());
  }

  /** Tells the others one's name. */
  introduce(name: string): void {
    this.#name = name;
    this.#present();
  }

  /** Shows the others where one points. */
  point(at: Point | null): void {
    this.#cursor = at && { x: round(at.x), y: round(at.y) };
    this.#present();
  }

  #shapes() {
    const { revision, records } = this.document;
    if (this.#known.revision !== revision) {
      const shapes = shapesOf(records.values());
      this.#known = { revision, shapes, byId: new Map(shapes.map((shape) => [shape.id, shape])) };
    }
    return this.#known;
  }

  #turn(diff: Diff | null): void {
    if (diff) this.document.change(diff);
    this.#tell();
  }

  #apply(diff: Diff): void {
    if (!this.canEdit || Object.keys(diff).length === 0) return;
    const { records } = this.document;
    for (const [id, op] of Object.entries(diff)) {
      const before = records.get(id);
      this.#undoing.record(id, before, after(before, op));
    }
    this.document.change(diff);
  }

  #present(): void {
    this.document.present({
      userId: this.#user,
      userName: this.#name,
      color: colourOf(this.#user),
      cursor: this.#cursor && { ...this.#cursor, type: 'default', rotation: 0 },
      currentPageId: 'page:page',
      selectedShapeIds: [...this.#selection],
      lastActivityTimestamp: Date.now(),
      meta: {},
    });
  }

  #tell(): void {
    this.#version += 1;
    for (const listener of this.#listeners) listener();
  }
}

/** The colour in which others see somebody, always the same. */
export function colourOf(who: string): string {
  let hue = 0;
  for (const letter of who) hue = (hue * 137 + (letter.codePointAt(0) ?? 0) * 47) % 360;
  return `hsl(${hue} 62% 36%)`;
}

/** Somebody else who has the document open. */
export interface Peer {
  /** Of their window. */
  id: string;
  userId: string;
  name: string;
  color: string;
  cursor: Point | null;
  selected: readonly string[];
}

/** Who else is there, as far as what they show of themselves can be read. */
export function peersOf(document: OpenDocument): Peer[] {
  return [...document.others.values()].map(({ id, userId, userName, color, cursor, selectedShapeIds }) => {
    const { x, y } = (cursor ?? {}) as Partial<Record<'x' | 'y', unknown>>;
    const user = typeof userId === 'string' ? userId : id;
    return {
      id,
      userId: user,
      name: typeof userName === 'string' && userName !== '' ? userName : user,
      // Anything else could be any style at all.
      color: typeof color === 'string' && /^(#[\da-f]{3,8}|hsl\([\d %.]+\))$/i.test(color) ? color : colourOf(user),
      cursor: typeof x === 'number' && typeof y === 'number' ? { x, y } : null,
      selected: Array.isArray(selectedShapeIds) ? selectedShapeIds.filter((each) => typeof each === 'string') : [],
    };
  });
}
