// A table as a live grid. Only the rows in sight are elements, and only rows that changed are put in
// order again, so that large tables stay live. A row is known by its key and keeps its element while it
// is in sight: focus and an edit that has begun survive whatever arrives. One cell is active: it is the
// one that Tab leads to, and arrow keys move it.

import { announce, element } from './dom.js';
import { Editor } from './editor.js';
import { brief, compare, isNumeric, shortType, show } from './values.js';

/** As in style.css, in pixels. */
const ROW_HEIGHT = 34;
/** How many rows above and below those in sight are drawn, so that scrolling shows no gap. */
const OVERSCAN = 8;
/** How long a change is highlighted, in milliseconds. */
const HIGHLIGHT = 1600;
/** By how much an arrow key makes a column wider, in pixels. */
const WIDER = 24;
/** Of more letters than these a cell may not show all. */
const SHORT = 18;
/** The first column holds no value but the button that deletes its row. */
const DELETE = 0;
const HEADER = -1;

export class Grid {
  #table;
  #actions;
  #rows = [];
  #keys = new WeakMap();
  #byKey = new Map();
  #pending = new Map();
  #drawn = new Map();
  #active = { index: HEADER, key: null, column: 1 };
  #wasActive = false;
  #sort;
  #columns;
  #editor = null;
  #hasRows = false;
  #widths;
  #drawnWidths = [];

  /** `actions`: `edit(row, column, value)`, `delete(row)` and `undo()`, which takes back the latest deletion. */
  constructor(table, label, widths, actions) {
    this.#table = table;
    this.#widths = widths;
    this.#actions = actions;
    this.#columns = new Map(table.columns.map((column) => [column.name, column]));
    this.#sort = { columns: table.key, isDescending: false };
    this.header = element('div', { className: 'row header', role: 'row', 'aria-rowindex': 1 });
    this.body = element('div', { className: 'body', role: 'rowgroup' });
    this.empty = element('p', { className: 'empty', textContent: 'Waiting for rows …' });
    this.scroller = element(
      'div',
      {
        className: 'scroller',
        role: 'grid',
        'aria-label': label,
        'aria-colcount': table.columns.length + 1,
      },
      element('div', { className: 'head', role: 'rowgroup' }, this.header),
      this.body,
    );
    this.element = element('div', { className: 'grid' }, this.scroller, this.empty);
    this.#drawHeader();
    this.scroller.addEventListener('scroll', () => this.#draw(), { passive: true });
    this.scroller.addEventListener('pointerdown', (event) => this.#onPointerDown(event));
    this.scroller.addEventListener('click', (event) => this.#onClick(event));
    this.scroller.addEventListener('dblclick', (event) => this.#onDoubleClick(event));
    this.scroller.addEventListener('focusin', (event) => this.#onFocus(event));
    this.scroller.addEventListener('keydown', (event) => this.#onKey(event));
    new ResizeObserver(() => this.#draw()).observe(this.scroller);
  }

  /**
   * Shows `rows`; `pending` says by key which of their columns are not confirmed. `isNews`: what was not shown
   * before has come, or has changed.
   */
  update(rows, pending, emptyText, isNews) {
    const isFirst = !this.#hasRows || !isNews;
    const before = this.#byKey;
    this.#pending = pending;
    this.#rows = this.#merged(rows);
    this.#byKey = new Map(this.#rows.map((row) => [this.keyOf(row), row]));
    this.#setWidths();
    this.#hasRows ||= rows.length > 0;
    this.empty.hidden = rows.length > 0;
    this.empty.textContent = emptyText;
    this.scroller.setAttribute('aria-rowcount', rows.length + 1);
    this.body.style.height = `${rows.length * ROW_HEIGHT}px`;
    this.#keepActive();
    this.#draw(isFirst ? null : before);
  }

  /** The text that a row is known by. */
  keyOf(row) {
    let key = this.#keys.get(row);
    if (key === undefined) {
      key = JSON.stringify(this.#table.key.map((name) => row[name]));
      this.#keys.set(row, key);
    }
    return key;
  }

  /** Brings the row with this key into sight and makes it the active one. */
  reveal(key) {
    const index = this.#rows.findIndex((row) => this.keyOf(row) === key);
    if (index >= 0) this.#activate(index, 1);
  }

  #inOrder(one, other) {
    const { columns, isDescending } = this.#sort;
    for (const column of columns) {
      const compared = compare(this.#columns.get(column), one[column], other[column]);
      if (compared !== 0) return isDescending ? -compared : compared;
    }
    return 0;
  }

  /** `rows` in order. A row that did not change is the same object, and is in its place already. */
  #merged(rows) {
    const present = new Set(rows);
    const before = new Set(this.#rows);
    const kept = this.#rows.filter((row) => present.has(row));
    const added = rows.filter((row) => !before.has(row)).sort((one, other) => this.#inOrder(one, other));
    const merged = [];
    let next = 0;
    for (const row of kept) {
      while (next < added.length && this.#inOrder(added[next], row) < 0) merged.push(added[next++]);
      merged.push(row);
    }
    return merged.concat(added.slice(next));
  }

  #drawHeader() {
    const cells = this.#table.columns.map((column, index) => {
      const notes = [shortType(column.type) + (column.notNull ? '' : '?')];
      if (this.#table.key.includes(column.name)) notes.push('key');
      else if (column.readonly) notes.push('read-only');
      else if (column.immutable) notes.push('insert only');
      const isSorted = this.#sort.columns[0] === column.name;
      return element(
        'div',
        {
          className: `cell${index === 0 ? ' first' : ''}${isNumeric(column) ? ' numeric' : ''}`,
          role: 'columnheader',
          tabIndex: -1,
          'aria-colindex': index + 2,
          'data-column': index + 1,
          title: `Sort by ${column.name}`,
          'aria-sort': isSorted ? (this.#sort.isDescending ? 'descending' : 'ascending') : 'none',
        },
        element('span', { className: 'name', textContent: column.name }),
        element('span', { className: 'type', textContent: notes.join(' · ') }),
        element('span', { className: 'grip', title: 'Drag to make it wider, click twice to fit it' }),
      );
    });
    const corner = element(
      'div',
      {
        className: 'cell corner',
        role: 'columnheader',
        'aria-colindex': 1,
        'data-column': DELETE,
        tabIndex: -1,
      },
      element('span', { className: 'unseen', textContent: 'Delete' }),
    );
    this.header.replaceChildren(corner, ...cells);
    this.#setTabStop();
  }

  #setWidths() {
    const widths = this.#widths.of(this.#rows);
    if (widths.join() === this.#drawnWidths.join()) return;
    this.#drawnWidths = widths;
    const tracks = widths.map((width) => `${width}px`).join(' ');
    this.scroller.style.setProperty('--columns', `34px ${tracks} minmax(0, 1fr)`);
  }

  #draw(before = null) {
    const { scrollTop, clientHeight } = this.scroller;
    const first = Math.max(0, Math.floor(scrollTop / ROW_HEIGHT) - OVERSCAN);
    const last = Math.min(this.#rows.length, Math.ceil((scrollTop + clientHeight) / ROW_HEIGHT) + OVERSCAN);
    const wanted = new Map();
    for (let index = first; index < last; index += 1) wanted.set(this.keyOf(this.#rows[index]), index);
    // The active row stays, else its focus would be lost by scrolling.
    if (this.#active.key !== null) wanted.set(this.#active.key, this.#active.index);
    for (const [key, drawn] of this.#drawn) {
      if (wanted.has(key)) continue;
      if (this.#editor?.isIn(drawn.element)) {
        this.#editor.close();
        announce('The row that was edited is gone');
      }
      drawn.element.remove();
      this.#drawn.delete(key);
    }
    for (const [key, index] of wanted) this.#drawRow(key, index, before);
    this.#setTabStop();
  }

  #drawRow(key, index, before) {
    const row = this.#rows[index];
    let drawn = this.#drawn.get(key);
    if (!drawn) {
      drawn = this.#makeRow(key);
      this.#drawn.set(key, drawn);
      this.body.append(drawn.element);
    }
    drawn.element.setAttribute('aria-rowindex', index + 2);
    drawn.element.style.transform = `translateY(${index * ROW_HEIGHT}px)`;
    const pending = this.#pending.get(key);
    drawn.element.classList.toggle('pending', Boolean(pending?.isWhole));
    const earlier = before?.get(key);
    if (before && !earlier) highlight(drawn.element.children);
    this.#table.columns.forEach((column, place) => {
      const cell = drawn.cells[place];
      const isPending = Boolean(pending && (pending.isWhole || pending.columns.has(column.name)));
      cell.classList.toggle('pending', isPending);
      if (drawn.row === row) return;
      const value = row[column.name];
      const text = brief(column, value);
      cell.title = text !== show(value) || text.length > SHORT ? show(value) : '';
      if (cell.firstChild.textContent !== text) cell.firstChild.textContent = text;
      cell.classList.toggle('null', value === null || value === undefined);
      if (earlier && show(earlier[column.name]) !== show(value)) highlight([cell]);
    });
    drawn.row = row;
  }

  #makeRow(key) {
    const remove = element('button', {
      type: 'button',
      className: 'delete',
      textContent: '×',
      tabIndex: -1,
      'aria-label': `Delete row ${JSON.parse(key).join(', ')}`,
      'data-column': DELETE,
    });
    const cells = this.#table.columns.map((column, place) =>
      element(
        'div',
        {
          className: `cell ${column.kind}${place === 0 ? ' first' : ''}${isNumeric(column) ? ' numeric' : ''}`,
          role: 'gridcell',
          tabIndex: -1,
          'aria-colindex': place + 2,
          'data-column': place + 1,
          'aria-readonly': String(this.#table.key.includes(column.name)),
        },
        element('span'),
      ),
    );
    const made = element(
      'div',
      { className: 'row', role: 'row', 'data-key': key },
      element('div', { className: 'cell corner', role: 'gridcell', 'aria-colindex': 1 }, remove),
      ...cells,
    );
    return { element: made, cells, row: null };
  }

  /** Where a row went, the active cell follows; where it is gone, the next row takes its place. */
  #keepActive() {
    const active = this.#active;
    if (active.key === null && active.index === HEADER) {
      if (this.#rows.length > 0 && !this.element.contains(document.activeElement)) this.#setActive(0, active.column);
      return;
    }
    if (this.#byKey.has(active.key)) {
      active.index = this.#rows.findIndex((row) => this.keyOf(row) === active.key);
      return;
    }
    const hadFocus = this.#drawn.get(active.key)?.element.contains(document.activeElement);
    this.#setActive(Math.min(active.index, this.#rows.length - 1), active.column);
    if (hadFocus) queueMicrotask(() => this.#focus());
  }

  #setActive(index, column) {
    const row = this.#rows[index];
    this.#active = { index: row ? index : HEADER, key: row ? this.keyOf(row) : null, column };
  }

  #activate(index, column) {
    this.#setActive(index, column);
    if (index >= 0) {
      const top = index * ROW_HEIGHT;
      const height = this.scroller.clientHeight - this.header.offsetHeight;
      if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
      if (top + ROW_HEIGHT > this.scroller.scrollTop + height) this.scroller.scrollTop = top + ROW_HEIGHT - height;
    }
    this.#draw();
    this.#focus();
  }

  #target({ key, column }) {
    if (key === null) return this.header.children[column];
    const drawn = this.#drawn.get(key);
    return column === DELETE ? drawn?.element.querySelector('.delete') : drawn?.cells[column - 1];
  }

  #focus() {
    const target = this.#target(this.#active);
    target?.focus({ preventScroll: true });
    target?.scrollIntoView?.({ block: 'nearest', inline: 'nearest' });
  }

  #setTabStop() {
    const target = this.#target(this.#active);
    for (const stop of this.scroller.querySelectorAll('[tabindex="0"]')) {
      if (stop !== target) stop.tabIndex = -1;
    }
    if (target) target.tabIndex = 0;
  }

  #placeOf(node) {
    const cell = node.closest('[data-column]');
    if (!cell) return null;
    const key = cell.closest('.row').dataset.key ?? null;
    return { key, column: Number(cell.dataset.column) };
  }

  #isActive(place) {
    return place.key === this.#active.key && place.column === this.#active.column;
  }

  #onPointerDown(event) {
    if (event.target.matches('.grip')) return this.#drag(event);
    const place = this.#placeOf(event.target);
    this.#wasActive = Boolean(place) && this.#isActive(place) && this.scroller.contains(document.activeElement);
  }

  #onFocus(event) {
    const place = this.#placeOf(event.target);
    if (!place || this.#isActive(place)) return;
    const index = this.#rows.findIndex((row) => this.keyOf(row) === place.key);
    this.#setActive(index, place.column);
    this.#setTabStop();
  }

  #onClick(event) {
    const place = this.#placeOf(event.target);
    if (!place || this.#editor?.element.contains(event.target) || event.target.matches('.grip')) return;
    if (place.key === null || place.column === DELETE || this.#wasActive) this.#press();
  }

  /** What Enter does in the active cell. */
  #press(text = null) {
    const { key, column } = this.#active;
    if (key === null) {
      if (column !== DELETE) this.#sortBy(this.#table.columns[column - 1].name);
      return;
    }
    const row = this.#byKey.get(key);
    if (column === DELETE) {
      this.#actions.delete(row);
      return;
    }
    const columnInfo = this.#table.columns[column - 1];
    if (this.#table.key.includes(columnInfo.name)) {
      announce('A key stays as it is: delete the row and insert another');
    } else if (columnInfo.kind === 'boolean') {
      this.#actions.edit(row, columnInfo.name, !row[columnInfo.name]);
    } else {
      this.#edit(row, columnInfo, text);
    }
  }

  #edit(row, column, text) {
    this.#editor?.close();
    const cell = this.#target(this.#active);
    this.#editor = new Editor(cell, column, row[column.name], text, {
      commit: (value) => this.#actions.edit(row, column.name, value),
      closed: (hadFocus, move) => {
        this.#editor = null;
        if (!hadFocus) return;
        if (move === 0) this.#focus();
        else this.#move(0, move);
      },
    });
  }

  #sortBy(name) {
    const isSame = this.#sort.columns[0] === name;
    this.#sort = { columns: [name, ...this.#table.key], isDescending: isSame && !this.#sort.isDescending };
    this.#drawHeader();
    this.#rows = [...this.#rows].sort((one, other) => this.#inOrder(one, other));
    this.#draw();
    this.#focus();
    announce(`Sorted by ${name}, ${this.#sort.isDescending ? 'descending' : 'ascending'}`);
  }

  #drag(event) {
    const { target, clientX, pointerId } = event;
    const cell = target.parentElement;
    const column = this.#table.columns[Number(cell.dataset.column) - 1];
    const before = cell.offsetWidth;
    const move = (moved) => this.#resize(column, before + moved.clientX - clientX);
    const end = () => target.removeEventListener('pointermove', move);
    target.setPointerCapture(pointerId);
    target.addEventListener('pointermove', move);
    target.addEventListener('lostpointercapture', end, { once: true });
    event.preventDefault();
  }

  #onDoubleClick(event) {
    if (!event.target.matches('.grip')) return;
    const column = this.#table.columns[Number(event.target.parentElement.dataset.column) - 1];
    this.#widths.fit(column, this.#inSight());
    this.#setWidths();
  }

  #resize(column, width) {
    this.#widths.choose(column, width);
    this.#setWidths();
  }

  /** The rows that are drawn. */
  #inSight() {
    return this.#rows.filter((row) => this.#drawn.has(this.keyOf(row)));
  }

  #move(down, right) {
    const { index, column } = this.#active;
    const next = Math.max(HEADER, Math.min(this.#rows.length - 1, index + down));
    this.#activate(next, Math.max(0, Math.min(this.#table.columns.length, column + right)));
  }

  #onKey(event) {
    if (this.#editor || event.altKey) return;
    if (event.shiftKey && this.#widen(event)) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW_HEIGHT) - 2);
    const all = this.#rows.length;
    const ends = event.ctrlKey || event.metaKey;
    const moves = {
      ArrowDown: [1, 0],
      ArrowUp: [-1, 0],
      ArrowRight: [0, 1],
      ArrowLeft: [0, -1],
      PageDown: [page, 0],
      PageUp: [-page, 0],
      Home: ends ? [-all, -Infinity] : [0, -Infinity],
      End: ends ? [all, Infinity] : [0, Infinity],
    };
    const move = moves[event.key];
    if (move) this.#move(...move);
    else if (!this.#act(event)) return;
    event.preventDefault();
  }

  /** Shift and an arrow make the column of a header wider, or narrower. */
  #widen(event) {
    const { key, column } = this.#active;
    const step = { ArrowRight: WIDER, ArrowLeft: -WIDER }[event.key];
    if (key !== null || column === DELETE || !step) return false;
    const info = this.#table.columns[column - 1];
    this.#resize(info, this.header.children[column].offsetWidth + step);
    announce(`${info.name} is ${this.#drawnWidths[column - 1]} pixels wide`);
    event.preventDefault();
    return true;
  }

  #act(event) {
    const { key, column } = this.#active;
    const info = this.#table.columns[column - 1];
    if (event.key.toLowerCase() === 'z' && (event.ctrlKey || event.metaKey) && !event.shiftKey) {
      this.#actions.undo();
      return true;
    }
    if (event.key === 'Enter' || event.key === 'F2' || (event.key === ' ' && (!info || info.kind === 'boolean'))) {
      this.#press();
      return true;
    }
    if (key === null) return false;
    const row = this.#byKey.get(key);
    if (event.key === 'Delete' || event.key === 'Backspace') {
      if (event.shiftKey) this.#actions.delete(row);
      else if (!info || this.#table.key.includes(info.name)) return false;
      else if (info.notNull) announce(`${info.name} cannot be null`);
      else if (row[info.name] !== null) this.#actions.edit(row, info.name, null);
      return true;
    }
    const isText = event.key.length === 1 && !event.ctrlKey && !event.metaKey && info && info.kind !== 'boolean';
    if (isText) this.#press(event.key);
    return isText;
  }
}

function highlight(cells) {
  const options = { duration: HIGHLIGHT, easing: 'ease-out' };
  for (const cell of cells) cell.animate([{ backgroundColor: 'var(--highlight)', offset: 0 }], options);
}
