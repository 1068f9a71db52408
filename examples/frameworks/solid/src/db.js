// The client, as long as the page lives. `rowtide dev` signs a token for anybody; an application asks its own server for one.
import { createClient } from '@rowtide/client';

export const ME = 'u1';
export const PROJECT = '00000000-0000-4000-9000-000000000001';

async function token() {
  const answer = await fetch('/playground/token', { method: 'POST', body: JSON.stringify({ user: ME }) });
  if (!answer.ok) throw new Error(await answer.text());
  return (await answer.json()).token;
}

export const db = createClient({
  url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/sync`,
  token,
  tables: { issue: { key: ['id'] } },
});
