// Runs on the server, for each request: the rows that the page begins with come from the database, without a client.
import pg from 'pg';
import { Issues } from './issues.jsx';
import { PROJECT } from './tracker.js';

export const dynamic = 'force-dynamic';

const database = new pg.Pool({ connectionString: process.env.DATABASE_URL });

export default async function Page() {
  const statement = 'SELECT id, project_id, title, status, author_id FROM issue WHERE project_id = $1';
  const { rows } = await database.query(statement, [PROJECT]);
  return <Issues given={rows} url={process.env.SYNC_URL ?? 'ws://127.0.0.1:4400/sync'} />;
}
