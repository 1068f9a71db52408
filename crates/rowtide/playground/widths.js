// How wide the columns of a table are: by what is in them, unless somebody has said otherwise, which the
// browser remembers.

import { brief, shortType } from './values.js';

/** In pixels. `most` is the widest that a column gets by itself. */
const WIDTH = { most: 260, least: 64, letter: 8.4, padding: 26, widest: 1200 };
/** How many rows are looked at. */
const LOOKED_AT = 60;

export class Widths {
  #place;
  #columns;
  #chosen;
  #natural = [];

  /** `place` is where the browser remembers what was chosen. */
  constructor(place, columns) {
    this.#place = place;
    this.#columns = columns;
    this.#chosen = remembered(place);
  }

  /** The width of each column, in pixels, for these rows. */
  of(rows) {
    this.#natural = this.#columns.map((column, index) =>
      // A column never gets narrower: the page would move under whoever reads it.
      Math.max(this.#natural[index] ?? WIDTH.least, Math.min(WIDTH.most, needed(column, rows))),
    );
    return this.#columns.map((column, index) => this.#chosen[column.name] ?? this.#natural[index]);
  }

  /** Makes a column so wide from now on. */
  choose(column, width) {
    const chosen = Math.round(Math.max(WIDTH.least, Math.min(WIDTH.widest, width)));
    // Another grid may have remembered another column.
    this.#chosen = { ...this.#chosen, ...remembered(this.#place), [column.name]: chosen };
    remember(this.#place, this.#chosen);
  }

  /** Makes a column as wide as what is in it. */
  fit(column, rows) {
    this.choose(column, needed(column, rows));
  }
}

/** The width that shows whole what is in a column. */
function needed(column, rows) {
  const type = (shortType(column.type).length + 9) * 0.86;
  const longest = rows.slice(0, LOOKED_AT).map((row) => brief(column, row[column.name]).length);
  return Math.round(Math.max(column.name.length + 1, type, ...longest) * WIDTH.letter + WIDTH.padding);
}

/** A browser may have no storage for the page. */
function remembered(place) {
  try {
    return JSON.parse(localStorage.getItem(place)) ?? {};
  } catch {
    return {};
  }
}

function remember(place, chosen) {
  try {
    localStorage.setItem(place, JSON.stringify(chosen));
  } catch {
    // It is as wide until the page is closed.
  }
}
