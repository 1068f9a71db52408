// An application signs a token for whoever is signed in. `rowtide dev` signs one for anybody.
import { ME } from '../tracker.js';

const server = (process.env.SYNC_URL ?? 'ws://127.0.0.1:4400/sync').replace(/^ws/, 'http').replace(/sync$/, 'playground/token');

export async function POST() {
  const answer = await fetch(server, { method: 'POST', body: JSON.stringify({ user: ME }) });
  if (!answer.ok) return new Response(await answer.text(), { status: 502 });
  return new Response((await answer.json()).token);
}
