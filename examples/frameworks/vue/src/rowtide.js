// What a component of Vue follows: refs that change with the client, as long as the component is there. They are shallow, since a
// row is another object when it has changed.
import { onScopeDispose, shallowRef } from 'vue';

/** The rows of a table or a query. */
export function useRows(query) {
  const rows = shallowRef(query.all());
  onScopeDispose(query.subscribe(() => (rows.value = query.all())));
  return rows;
}

/** `db.status`, or a subscription. */
export function useObserved(observed) {
  const value = shallowRef(observed.get());
  onScopeDispose(observed.subscribe((now) => (value.value = now)));
  return value;
}
