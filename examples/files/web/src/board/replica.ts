// A copy of a document that one works on without waiting for the server: what the server has said, and on top of it
// what one has done oneself and the server has not confirmed. Whenever the server says more, one's own changes are
// laid over it anew, so that everybody ends with what the server has. There is no socket and no clock in here:
// messages go in and come out.

import { after, composed, difference, whole } from './diff';
import type { Diff, Json, JsonObject, ObjectDiff, Rec, RecordOp } from './diff';

/** The version of tlsync that is spoken here. */
const PROTOCOL = 8;

export type ClientMessage =
  | {
      readonly type: 'connect';
      readonly connectRequestId: string;
      readonly lastServerClock: number;
      readonly protocolVersion: number;
      readonly schema: JsonObject;
    }
  | {
      readonly type: 'push';
      readonly clientClock: number;
      readonly diff?: Diff;
      readonly presence?: readonly ['put', Rec] | readonly ['patch', ObjectDiff];
    }
  | { readonly type: 'ping' };

type DataMessage =
  | { readonly type: 'patch'; readonly diff: Diff; readonly serverClock: number }
  | {
      readonly type: 'push_result';
      readonly clientClock: number;
      readonly serverClock: number;
      readonly action: 'commit' | 'discard' | { readonly rebaseWithDiff: Diff };
    };

export type ServerMessage =
  | {
      readonly type: 'connect';
      readonly connectRequestId: string;
      readonly hydrationType: 'wipe_all' | 'wipe_presence';
      readonly serverClock: number;
      readonly diff: Diff;
      readonly isReadonly: boolean;
    }
  | { readonly type: 'data'; readonly data: readonly DataMessage[] }
  | { readonly type: 'pong' };

interface Push {
  readonly clock: number;
  readonly diff: Diff | null;
}

type Connection =
  | { readonly is: 'away' }
  | { readonly is: 'asking'; readonly requestId: string }
  | { readonly is: 'live' };

const PRESENCE = 'instance_presence:';

export class Replica {
  /** The document as one sees it. */
  readonly records = new Map<string, Rec>();
  /** What others show of themselves. */
  readonly others = new Map<string, Rec>();
  /** Goes up whenever one sees another document. */
  revision = 0;
  /** Whether one may only look, as the server has said last. */
  isReadonly = false;
  /** How often changes of one's own were dropped because one may only look by now. */
  dropped = 0;

  /** What the server has. */
  readonly #confirmed = new Map<string, Rec>();
  #serverClock = -1;
  #connection: Connection = { is: 'away' };
  /** Sent, and not answered on this connection. */
  #sent: Push[] = [];
  /** Not sent yet. */
  #unsent: Diff = {};
  #clientClock = 0;
  /** What one shows of oneself, and what the server has been told of it on this connection. */
  #presence: Rec | null = null;
  #toldPresence: Rec | null = null;

  /** Whether there is anything that the server has not confirmed. */
  get isSaved(): boolean {
    return Object.keys(this.#unsent).length === 0 && this.#sent.every((push) => push.diff === null);
  }

  get isLive(): boolean {
    return this.#connection.is === 'live';
  }

  /** Changes the document, at once for oneself and with the next `flush` for others; not if one may only look. */
  change(diff: Diff): void {
    if (this.isReadonly) return;
    this.#unsent = composed(this.#unsent, diff);
    for (const [id, op] of Object.entries(diff)) this.#see(id, after(this.records.get(id), op));
  }

  /** Shows something of oneself to the others. */
  present(state: JsonObject): void {
    this.#presence = { ...state, id: `${PRESENCE}own`, typeName: 'instance_presence' };
  }

  /** What to say on a new connection. What was sent on the one before may have arrived or not: it is sent again. */
  connect(requestId: string, schema: JsonObject): ClientMessage {
    this.disconnect();
    this.#connection = { is: 'asking', requestId };
    return {
      type: 'connect',
      connectRequestId: requestId,
      lastServerClock: this.#serverClock,
      protocolVersion: PROTOCOL,
      schema,
    };
  }

  /** The connection is gone. */
  disconnect(): void {
    const sent = this.#sent.reduce<Diff>((all, push) => (push.diff ? composed(all, push.diff) : all), {});
    const all = Object.entries(composed(sent, this.#unsent));
    this.#unsent = Object.fromEntries(all.map(([id, op]) => [id, whole(op, this.records.get(id))]));
    this.#sent = [];
    this.#toldPresence = null;
    this.#connection = { is: 'away' };
    this.others.clear();
  }

  /** What to send now, if anything. Everything since the last time goes together. */
  flush(): ClientMessage | null {
    if (this.#connection.is !== 'live') return null;
    const diff = Object.keys(this.#unsent).length > 0 ? this.#unsent : null;
    const presence = this.#presenceToTell();
    if (!diff && !presence) return null;
    this.#clientClock += 1;
    this.#sent.push({ clock: this.#clientClock, diff });
    this.#unsent = {};
    return { type: 'push', clientClock: this.#clientClock, ...(diff && { diff }), ...(presence && { presence }) };
  }

  /** Takes what the server says. Returns `false` if it does not follow: then a new connection has to be made. */
  hear(message: ServerMessage): boolean {
    switch (message.type) {
      case 'connect': {
        if (this.#connection.is !== 'asking' || this.#connection.requestId !== message.connectRequestId) return true;
        this.#connection = { is: 'live' };
        if (message.hydrationType === 'wipe_all') this.#confirmed.clear();
        this.others.clear();
        this.isReadonly = message.isReadonly;
        if (this.isReadonly && !this.isSaved) {
          this.#unsent = {};
          this.dropped += 1;
        }
        this.#confirm(message.diff, message.serverClock);
        this.#lay(new Set([...this.records.keys(), ...this.#confirmed.keys()]));
        return true;
      }
      case 'data':
        return this.#connection.is !== 'live' || message.data.every((each) => this.#hearData(each));
      default:
        return true;
    }
  }

  #hearData(message: DataMessage): boolean {
    if (message.type === 'patch') {
      this.#confirm(message.diff, message.serverClock);
      this.#lay(Object.keys(message.diff));
      return true;
    }
    const [push] = this.#sent;
    if (push?.clock !== message.clientClock) return false;
    this.#sent.shift();
    const { action } = message;
    const happened = action === 'commit' ? (push.diff ?? {}) : action === 'discard' ? {} : action.rebaseWithDiff;
    this.#confirm(happened, message.serverClock);
    this.#lay([...Object.keys(push.diff ?? {}), ...Object.keys(happened)]);
    return true;
  }

  #confirm(diff: Diff, clock: number): void {
    for (const [id, op] of Object.entries(diff)) {
      const records = id.startsWith(PRESENCE) ? this.others : this.#confirmed;
      set(records, id, after(records.get(id), op));
    }
    this.#serverClock = clock;
  }

  /** Lays one's own changes over what the server has of some records. */
  #lay(ids: Iterable<string>): void {
    for (const id of ids) {
      if (id.startsWith(PRESENCE)) continue;
      let record = this.#confirmed.get(id);
      const lay = (diff: Diff | null) => {
        const op: RecordOp | undefined = diff && Object.hasOwn(diff, id) ? diff[id] : undefined;
        if (op) record = after(record, op);
      };
      for (const push of this.#sent) lay(push.diff);
      lay(this.#unsent);
      const seen = this.records.get(id);
      // One that is as before stays the same object.
      if (record && seen && difference(seen, record) === null) continue;
      this.#see(id, record);
    }
  }

  #see(id: string, record: Rec | undefined): void {
    if (this.records.get(id) === record) return;
    set(this.records, id, record);
    this.revision += 1;
  }

  #presenceToTell(): readonly ['put', Rec] | readonly ['patch', ObjectDiff] | null {
    const [next, told] = [this.#presence, this.#toldPresence];
    if (!next || next === told) return null;
    this.#toldPresence = next;
    if (!told) return ['put', next];
    const diff = difference(told, next);
    return diff && ['patch', diff];
  }
}

function set(records: Map<string, Rec>, id: string, record: Rec | undefined): void {
  if (record) records.set(id, record);
  else records.delete(id);
}

/** The most UTF-16 units of one frame. */
const FRAME = 262_000;

/** The frames of a message: a long one goes in parts, each with the number of those that follow. */
export function frames(message: ClientMessage): string[] {
  const text = JSON.stringify(message);
  if (text.length < FRAME) return [text];
  const parts: string[] = [];
  for (let from = 0; from < text.length; ) {
    let to = Math.min(from + FRAME, text.length);
    // Half of a character would arrive as one that stands for nothing.
    if (isHighSurrogate(text.charCodeAt(to - 1))) to -= 1;
    parts.push(text.slice(from, to));
    from = to;
  }
  return parts.map((part, at) => `${parts.length - 1 - at}_${part}`);
}

const isHighSurrogate = (unit: number) => unit >= 0xd800 && unit < 0xdc00;

/** Reads a frame of the server; `null` if it is none. */
export function read(frame: unknown): ServerMessage | null {
  if (typeof frame !== 'string') return null;
  try {
    const message = JSON.parse(frame) as Json;
    return typeof message === 'object' && message !== null && 'type' in message
      ? (message as unknown as ServerMessage)
      : null;
  } catch {
    return null;
  }
}
