// How far one finger, or a mouse, moves the page, and how two zoom it.

import type { View } from './camera';
import type { Point } from './shapes';

export class Fingers {
  readonly #places = new Map<number, Point>();

  get count(): number {
    return this.#places.size;
  }

  press(pointer: number, at: Point): void {
    this.#places.set(pointer, at);
  }

  release(pointer: number): void {
    this.#places.delete(pointer);
  }

  /** A finger is somewhere else now; the view follows, if it is asked to. */
  follow(pointer: number, at: Point, view: View | null): void {
    if (!this.#places.has(pointer)) return;
    const before = this.#spread();
    this.#places.set(pointer, at);
    const now = this.#spread();
    view?.move(now.x - before.x, now.y - before.y);
    if (before.apart > 0 && now.apart > 0) view?.zoom(now.apart / before.apart, now);
  }

  /** The middle of the first two, and how far they are apart. */
  #spread(): Point & { apart: number } {
    const [one, other] = [...this.#places.values()];
    if (!one) return { x: 0, y: 0, apart: 0 };
    if (!other) return { ...one, apart: 0 };
    return { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2, apart: Math.hypot(one.x - other.x, one.y - other.y) };
  }
}
