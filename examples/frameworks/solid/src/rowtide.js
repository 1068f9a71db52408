// What a component of Solid follows: signals that change with the client, as long as their owner is there.
import { createSignal, onCleanup } from 'solid-js';

/** The rows of a table or a query. */
export function createRows(query) {
  const [rows, setRows] = createSignal(query.all());
  onCleanup(query.subscribe(() => setRows(query.all())));
  return rows;
}

/** `db.status`, or a subscription. */
export function createObserved(observed) {
  const [value, setValue] = createSignal(observed.get());
  onCleanup(observed.subscribe((now) => setValue(now)));
  return value;
}
