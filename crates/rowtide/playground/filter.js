// Which rows of a table are shown: those in which every word of a text is found. A word may be in quotes,
// and `column=value` asks for a column's whole value.

import { show } from './values.js';

const WORDS = /("[^"]*"?|[^\s"=]+)(?:=("[^"]*"?|\S*))?|=\S*/g;

/** Whether a row is shown, by a text that somebody has written; each row is looked at once. */
export function filterOf(text, columns) {
  const tests = [...text.matchAll(WORDS)].map(([whole, name, value]) => test(whole, name, value, columns));
  if (tests.length === 0) return () => true;
  const known = new WeakMap();
  return (row) => {
    let isShown = known.get(row);
    if (isShown === undefined) known.set(row, (isShown = tests.every((holds) => holds(row))));
    return isShown;
  };
}

function test(whole, name, value, columns) {
  // Somebody is writing it.
  const isBegun = value === '' && columns.some((each) => each.name === bare(name));
  if (isBegun) return () => true;
  const column = value === undefined ? undefined : columns.find((each) => each.name === bare(name));
  if (column) {
    const wanted = bare(value).toLowerCase();
    return (row) => show(row[column.name]).toLowerCase() === wanted;
  }
  const wanted = (value === undefined ? bare(name ?? whole) : whole).toLowerCase();
  return (row) => columns.some(({ name: each }) => show(row[each]).toLowerCase().includes(wanted));
}

function bare(text) {
  return text.replace(/^"|"$/g, '');
}
