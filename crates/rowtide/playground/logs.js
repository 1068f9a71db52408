// What happened, newest first: the changes of one person with what came of each, and the messages of
// their connection. Both keep the latest alone.

import { element } from './dom.js';

const MOST_MESSAGES = 200;
/** The longest text of a message that is written out whole, in characters. */
const LONGEST = 20_000;

/** A person's changes: pending, confirmed or rejected. */
export class Changes {
  #shown = new Map();

  constructor() {
    this.count = element('span', { className: 'count' });
    this.list = element('ol', { className: 'changes' });
    this.empty = element(
      'p',
      { className: 'hint' },
      'Edit a cell, insert or delete a row: what becomes of it is told here.',
    );
    this.element = element('div', {}, this.empty, this.list);
  }

  clear() {
    this.#shown.clear();
    this.show([]);
    this.list.replaceChildren();
  }

  /** Shows `changes`, the latest of which is the last. */
  show(changes) {
    this.count.textContent = changes.length || '';
    this.empty.hidden = changes.length > 0;
    const present = new Set(changes);
    for (const [change, shown] of this.#shown) {
      if (present.has(change)) continue;
      shown.remove();
      this.#shown.delete(change);
    }
    for (const change of changes) this.#showOne(change);
  }

  #showOne(change) {
    let shown = this.#shown.get(change);
    if (shown?.dataset.state === change.state) return;
    if (!shown) {
      shown = element('li');
      this.#shown.set(change, shown);
      this.list.prepend(shown);
    }
    shown.dataset.state = change.state;
    const outcomes = {
      pending: () => ['pending'],
      confirmed: () => [`confirmed in ${change.took} ms`],
      rejected: () => [element('strong', {}, change.code), ` ${change.message}`],
    };
    shown.replaceChildren(
      element(
        'span',
        { className: 'did' },
        element('b', {}, change.verb),
        ` ${change.table.name} `,
        element('code', {}, change.key),
        change.detail,
      ),
      element('span', { className: 'outcome' }, ...outcomes[change.state]()),
    );
  }
}

/** What passed over a person's connection. */
export class Messages {
  #number = 0;

  constructor() {
    this.count = element('span', { className: 'count' });
    this.list = element('ol', { className: 'messages' });
    this.element = this.list;
  }

  clear() {
    this.#number = 0;
    this.count.textContent = '';
    this.list.replaceChildren();
  }

  /** Takes a message that was `sent` or `received`, or a `note` in words. */
  add(direction, message) {
    this.#number += 1;
    this.count.textContent = this.#number;
    const time = element('time', {}, new Date().toTimeString().slice(0, 8));
    const item = element('li', { className: direction });
    if (direction === 'note') {
      item.append(
        element(
          'p',
          {},
          element('span', { className: 'arrow' }, '·'),
          element('span', { className: 'summary' }, message),
          time,
        ),
      );
    } else {
      item.append(this.#message(direction, message, time));
    }
    this.list.prepend(item);
    while (this.list.children.length > MOST_MESSAGES) this.list.lastChild.remove();
  }

  #message(direction, message, time) {
    const isSent = direction === 'sent';
    const details = element(
      'details',
      {},
      element(
        'summary',
        {},
        element('span', { className: 'arrow', title: direction }, isSent ? '↑' : '↓'),
        element('span', { className: 'unseen' }, direction),
        element('b', {}, String(message.type)),
        ' ',
        element('span', { className: 'summary' }, summary(message)),
        time,
      ),
    );
    // Written out when it is looked at: a snapshot may be large.
    details.addEventListener('toggle', () => {
      if (details.querySelector('pre')) return;
      const whole = JSON.stringify(withoutTokens(message), null, 2);
      details.append(element('pre', { tabIndex: 0 }, whole.length > LONGEST ? `${whole.slice(0, LONGEST)}\n…` : whole));
    });
    return details;
  }
}

function withoutTokens(message) {
  return message.token ? { ...message, token: `${message.token.slice(0, 8)}…` } : message;
}

function summary(message) {
  switch (message.type) {
    case 'connect':
      return `${message.clientId}${message.cursor ? ` from ${message.cursor}` : ''}`;
    case 'connected':
      return `${message.userId ?? 'nobody'}, ${message.mode}, ${Object.keys(message.tables ?? {}).length} tables`;
    case 'snapshot':
      return `${message.table}, ${plural(message.rows.length, 'row')}`;
    case 'ready':
      return message.cursor;
    case 'mutate':
      return `#${message.id} ${message.ops.map((op) => `${op.op} ${op.table}`).join(', ')}`;
    case 'tx': {
      const changes = message.changes.slice(0, 3).map((change) => `${change.op} ${change.table}`);
      if (message.changes.length > 3) changes.push(`${message.changes.length - 3} more`);
      if (message.ack !== undefined) changes.push(`ack #${message.ack}`);
      return changes.join(', ') || 'nothing new';
    }
    case 'reject':
      return `#${message.id} ${message.code}: ${message.message}`;
    case 'error':
      return `${message.code}: ${message.message}`;
    default:
      return '';
  }
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
