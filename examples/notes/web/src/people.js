// Who is signed in, in this tab. A real application would ask its own server for a token; here `rowtide dev` signs one for
// anybody, which is why it only listens on this machine.

const KEY = 'notes.person';

export const person = () => sessionStorage.getItem(KEY);
export const signIn = (who) => sessionStorage.setItem(KEY, who);
export const signOut = () => sessionStorage.removeItem(KEY);

/** People of the sample data. */
export const PEOPLE = ['ada', 'ben', 'cleo', 'dora'];

/** A token of who is signed in. */
export async function token() {
  const response = await fetch('/playground/token', { method: 'POST', body: JSON.stringify({ user: person() }) });
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()).token;
}

/** The colour in which others see somebody, always the same. */
export function colour(who) {
  let hue = 0;
  for (const character of who) hue = (hue * 31 + character.codePointAt(0)) % 360;
  return `hsl(${hue} 60% 40%)`;
}
