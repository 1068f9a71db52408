import { Component, provideZonelessChangeDetection } from '@angular/core';
import { bootstrapApplication } from '@angular/platform-browser';
import { ME, PROJECT, db } from './db';
import { observed, rowsOf } from './rowtide';

@Component({
  selector: 'main',
  template: `
    <h1>Issues</h1>
    <form (submit)="add($event, title)"><input #title aria-label="New issue" required /></form>
    <ul>
      @for (issue of issues(); track issue.id) {
        <li [attr.aria-busy]="isPending(issue.id)">
          <label>
            <input #done type="checkbox" [checked]="issue.status === 'done'" (change)="finish(issue.id, done.checked)" />
            {{ issue.title }}
          </label>
          <button [attr.aria-label]="'Delete ' + issue.title" (click)="remove(issue.id)">×</button>
        </li>
      }
    </ul>
    <p role="status">{{ status().connection }}, {{ status().pending }} not sent yet</p>
  `,
  styles: `
    li[aria-busy='true'] {
      opacity: 0.5;
    }
  `,
})
class App {
  readonly issues = rowsOf(db.table('issue').where({ project_id: PROJECT }));
  readonly status = observed(db.status);

  // Whether a row waits changes with how many mutations do.
  isPending(id: string): boolean {
    return this.status().pending > 0 && db.table('issue').isPending(id);
  }

  add(event: Event, title: HTMLInputElement): void {
    event.preventDefault();
    const row = { id: crypto.randomUUID(), project_id: PROJECT, title: title.value, status: 'open' as const, author_id: ME };
    db.mutate((tx) => tx.issue.insert(row));
    title.value = '';
  }

  finish(id: string, done: boolean): void {
    db.mutate((tx) => tx.issue.update({ id, status: done ? 'done' : 'open' }));
  }

  remove(id: string): void {
    db.mutate((tx) => tx.issue.delete(id));
  }
}

bootstrapApplication(App, { providers: [provideZonelessChangeDetection()] });
