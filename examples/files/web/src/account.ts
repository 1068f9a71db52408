// The user who is signed in. A real application would ask its own server for a token. Here `rowtide dev`
// signs one for anybody, which is why it only listens on this machine.

const KEY = 'files.user';

/** The user who signed in last and has not signed out, also while the server is away. */
export function signedIn(): string | null {
  return localStorage.getItem(KEY);
}

/** Stores the user who is signed in; `null` if nobody is. */
export function remember(user: string | null): void {
  if (user === null) localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, user);
}

/** Some people of the sample data. */
export async function people(): Promise<string[]> {
  const response = await fetch('/playground/info');
  if (!response.ok) throw new Error(await response.text());
  const info = (await response.json()) as { users: string[] };
  return info.users;
}

/** A token of `user`. */
export async function token(user: string): Promise<string> {
  const response = await fetch('/playground/token', { method: 'POST', body: JSON.stringify({ user }) });
  if (!response.ok) throw new Error(await response.text());
  const signed = (await response.json()) as { token: string };
  return signed.token;
}
