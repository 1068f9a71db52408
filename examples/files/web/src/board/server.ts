// What the server says of documents over HTTP: the copies that are published, and how documents were before.

import { token } from '../account';
import type { Rec } from './diff';

/** The server has said no, or nothing. */
export class Refused extends Error {
  /** 0 if it did not answer. */
  readonly status: number;

  constructor(status: number) {
    super(`the server answers ${status}`);
    this.status = status;
  }
}

async function ask(path: string, init?: RequestInit): Promise<Response> {
  const response = await fetch(path, init).catch(() => {
    throw new Refused(0);
  });
  if (!response.ok) throw new Refused(response.status);
  return response;
}

async function askAs(user: string, path: string, init?: RequestInit): Promise<Response> {
  const signed = await token(user).catch(() => {
    throw new Refused(0);
  });
  return ask(path, { ...init, headers: { ...init?.headers, authorization: `Bearer ${signed}` } });
}

const pathOf = (file: string) => `/app/file/${encodeURIComponent(file)}`;

/** The address of a live document; it opens for the user while their token lasts. */
export async function addressOf(user: string, file: string, session: string): Promise<string> {
  const query = new URLSearchParams({ accessToken: await token(user), sessionId: session });
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${pathOf(file)}?${query}`;
}

/** The records of a published copy; `null` if there is none. */
export async function published(slug: string): Promise<Rec[] | null> {
  try {
    const response = await ask(`/app/publish/${encodeURIComponent(slug)}`, { cache: 'no-store' });
    const copy = (await response.json()) as { records: Rec[] };
    return copy.records;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}

/** When a file's document was as it can be again, the newest first. */
export async function versions(user: string, file: string): Promise<string[]> {
  const response = await askAs(user, `${pathOf(file)}/history`);
  return (await response.json()) as string[];
}

/** The records of a file's document as they were at a time of `versions`. */
export async function version(user: string, file: string, time: string): Promise<Rec[]> {
  const response = await askAs(user, `${pathOf(file)}/history/${encodeURIComponent(time)}`);
  const snapshot = (await response.json()) as { documents: { state: Rec }[] };
  return snapshot.documents.map(({ state }) => state);
}

/** Makes a file's document what it was, for everyone. */
export async function restore(user: string, file: string, time: string): Promise<void> {
  await askAs(user, `${pathOf(file)}/restore`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ timestamp: time }),
  });
}

/** Why the server has said no, in words. */
export function inWords(error: unknown): string {
  const status = error instanceof Refused ? error.status : 0;
  if (status === 401 || status === 403) return 'Only the owner of this file may do that.';
  if (status === 404) return 'There is nothing of that kind here.';
  return 'The server does not answer. Try again in a moment.';
}
