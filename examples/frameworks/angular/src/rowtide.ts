// What a component of Angular follows: signals that change with the client, as long as the component is there.
import { DestroyRef, type Signal, inject, signal } from '@angular/core';
import type { Observable, Query } from '@rowtide/client';

/** The rows of a table or a query. */
export function rowsOf<Row>(query: Query<Row>): Signal<readonly Row[]> {
  const rows = signal(query.all());
  inject(DestroyRef).onDestroy(query.subscribe(() => rows.set(query.all())));
  return rows.asReadonly();
}

/** `db.status`, or a subscription. */
export function observed<T>(observable: Observable<T>): Signal<T> {
  const value = signal(observable.get());
  inject(DestroyRef).onDestroy(observable.subscribe((now) => value.set(now)));
  return value.asReadonly();
}
