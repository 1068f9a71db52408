// Undoing and redoing what one did oneself. An undone change gives only that its value back which it had changed:
// what others did to the same shapes meanwhile stays.

import { difference } from './diff';
import type { Diff, Rec, RecordOp } from './diff';

/** What became of records by something that is undone as one. */
type Step = Map<string, { before: Rec | undefined; after: Rec | undefined }>;

/** The most steps that can be undone. */
const MOST = 200;

export class Undoing {
  #done: Step[] = [];
  #undone: Step[] = [];
  #isOpen = false;

  get canUndo(): boolean {
    return this.#done.length > 0;
  }

  get canRedo(): boolean {
    return this.#undone.length > 0;
  }

  /** What is recorded from now on is another step. */
  mark(): void {
    this.#isOpen = false;
  }

  /** Records what became of a record. */
  record(id: string, before: Rec | undefined, after: Rec | undefined): void {
    if (!this.#isOpen) {
      this.#done.push(new Map());
      if (this.#done.length > MOST) this.#done.shift();
      this.#isOpen = true;
    }
    this.#undone = [];
    const step = this.#done.at(-1);
    const first = step?.get(id);
    step?.set(id, { before: first ? first.before : before, after });
  }

  /** The change that undoes the last step; `null` if there is none. */
  undo(): Diff | null {
    return this.#turn(this.#done, this.#undone, 'after', 'before');
  }

  /** The change that does the last undone step again; `null` if there is none. */
  redo(): Diff | null {
    return this.#turn(this.#undone, this.#done, 'before', 'after');
  }

  #turn(from: Step[], to: Step[], had: Side, next: Side): Diff | null {
    this.mark();
    for (let step = from.pop(); step; step = from.pop()) {
      const diff = between(step, had, next);
      // Of what was begun and given up nothing is left.
      if (Object.keys(diff).length === 0) continue;
      to.push(step);
      return diff;
    }
    return null;
  }
}

type Side = 'before' | 'after';

function between(step: Step, from: Side, to: Side): Diff {
  const diff: { [id: string]: RecordOp } = {};
  for (const [id, { [from]: had, [to]: next }] of step) {
    if (!next) {
      if (had) diff[id] = ['remove'];
    } else if (!had) diff[id] = ['put', next];
    else {
      const patch = difference(had, next);
      if (patch) diff[id] = ['patch', patch];
    }
  }
  return diff;
}
