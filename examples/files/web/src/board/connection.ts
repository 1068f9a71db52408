// A document that is open: a replica, and the socket that keeps it equal to the server's. It comes back by itself,
// unless the server says that it is of no use; then it says why.

import { Replica, frames, read } from './replica';
import type { ClientMessage } from './replica';
import type { Diff, JsonObject, Rec } from './diff';

/** How long changes are collected before they are sent, in milliseconds. */
const COLLECT = 33;
/** How often the server is asked whether it is there, in milliseconds. */
const PING = 5_000;
/** How long it may be silent before the connection is made anew, in milliseconds. */
const SILENCE = 10_000;
/** How long to wait before coming back: at first, and at most, in milliseconds. */
const [FIRST_WAIT, LONGEST_WAIT] = [250, 4_000];
/** The code of a close that is final. */
const FINAL = 4_099;

/** Why a document was closed for good. */
export type Reason =
  | 'NOT_FOUND'
  | 'FORBIDDEN'
  | 'NOT_AUTHENTICATED'
  | 'CLIENT_TOO_OLD'
  | 'SERVER_TOO_OLD'
  | 'INVALID_RECORD'
  | 'RATE_LIMITED'
  | 'ROOM_FULL'
  | 'UNKNOWN_ERROR';

export type DocumentStatus =
  | { readonly is: 'connecting' }
  | { readonly is: 'live'; readonly isReadonly: boolean }
  /** It was live before, and is going to be. */
  | { readonly is: 'offline' }
  | { readonly is: 'closed'; readonly reason: Reason };

export interface Opening {
  /** Where the document is served; asked for with each connection, since a token ends. */
  address: () => Promise<string>;
  schema: JsonObject;
}

export class OpenDocument {
  /** Goes up whenever there is something else to see. */
  version = 0;
  status: DocumentStatus = { is: 'connecting' };

  readonly #replica = new Replica();
  readonly #opening: Opening;
  readonly #listeners = new Set<() => void>();
  readonly #stop = new AbortController();
  #socket: WebSocket | null = null;
  #heardAt = 0;
  #wait = FIRST_WAIT;
  #coming: ReturnType<typeof setTimeout> | undefined;
  #sending: ReturnType<typeof setTimeout> | undefined;
  #requests = 0;

  constructor(opening: Opening) {
    this.#opening = opening;
    const pulse = setInterval(() => this.#pulse(), PING);
    const { signal } = this.#stop;
    signal.addEventListener('abort', () => clearInterval(pulse));
    // Not to wait for what is known already.
    globalThis.addEventListener?.('online', () => this.#comeBack(0), { signal });
    void this.#connect();
  }

  get records(): ReadonlyMap<string, Rec> {
    return this.#replica.records;
  }

  /** Goes up whenever the records are others. */
  get revision(): number {
    return this.#replica.revision;
  }

  get others(): ReadonlyMap<string, Rec> {
    return this.#replica.others;
  }

  /** Whether the server has everything. */
  get isSaved(): boolean {
    return this.#replica.isSaved;
  }

  /** How often changes were dropped because one may only look by now. */
  get dropped(): number {
    return this.#replica.dropped;
  }

  /** Whether one may change the document, also before the server has it. */
  get isEditable(): boolean {
    return !this.#replica.isReadonly && (this.status.is === 'live' || this.status.is === 'offline');
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  change(diff: Diff): void {
    if (!this.isEditable) return;
    this.#replica.change(diff);
    this.#sendSoon();
    this.#tell();
  }

  present(state: JsonObject): void {
    this.#replica.present(state);
    this.#sendSoon();
  }

  /** Closes it. What is not sent yet is sent before, if that is possible. */
  close(): void {
    if (this.#stop.signal.aborted) return;
    this.#flush();
    this.#end();
  }

  #end(): void {
    this.#stop.abort();
    clearTimeout(this.#coming);
    clearTimeout(this.#sending);
    this.#socket?.close();
    this.#socket = null;
    this.#replica.disconnect();
  }

  async #connect(): Promise<void> {
    let address: string;
    try {
      address = await this.#opening.address();
    } catch {
      this.#comeBack();
      return;
    }
    if (this.#stop.signal.aborted || this.#socket) return;
    const socket = new WebSocket(address);
    this.#socket = socket;
    this.#heardAt = Date.now();
    socket.onopen = () => {
      this.#requests += 1;
      this.#send(this.#replica.connect(String(this.#requests), this.#opening.schema));
    };
    socket.onmessage = ({ data }) => {
      if (socket === this.#socket) this.#hear(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      this.#replica.disconnect();
      if (code === FINAL) {
        this.status = { is: 'closed', reason: (reason || 'UNKNOWN_ERROR') as Reason };
        this.#end();
        this.#tell();
      } else this.#comeBack();
    };
  }

  #hear(data: unknown): void {
    this.#heardAt = Date.now();
    const message = read(data);
    if (!message || !this.#replica.hear(message)) {
      this.#reset();
      return;
    }
    if (this.#replica.isLive && (this.status.is !== 'live' || this.status.isReadonly !== this.#replica.isReadonly)) {
      this.#wait = FIRST_WAIT;
      this.status = { is: 'live', isReadonly: this.#replica.isReadonly };
      this.#sendSoon();
    }
    if (message.type !== 'pong') this.#tell();
  }

  #pulse(): void {
    if (!this.#socket) return;
    if (Date.now() - this.#heardAt > SILENCE) this.#reset();
    else if (this.#replica.isLive) this.#send({ type: 'ping' });
  }

  /** Lets go of a connection that is of no use, without waiting for it to be closed. */
  #reset(): void {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    this.#replica.disconnect();
    this.#comeBack();
  }

  #comeBack(wait = this.#wait): void {
    if (this.#stop.signal.aborted || this.#socket) return;
    if (this.status.is === 'live') this.status = { is: 'offline' };
    clearTimeout(this.#coming);
    // Not all at the same time.
    this.#coming = setTimeout(() => void this.#connect(), wait * (0.5 + Math.random()));
    this.#wait = Math.min(this.#wait * 1.5, LONGEST_WAIT);
    this.#tell();
  }

  #sendSoon(): void {
    this.#sending ??= setTimeout(() => this.#flush(), COLLECT);
  }

  #flush(): void {
    clearTimeout(this.#sending);
    this.#sending = undefined;
    const message = this.#replica.flush();
    if (message) this.#send(message);
  }

  #send(message: ClientMessage): void {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    for (const frame of frames(message)) this.#socket.send(frame);
  }

  #tell(): void {
    this.version += 1;
    for (const listener of this.#listeners) listener();
  }
}
