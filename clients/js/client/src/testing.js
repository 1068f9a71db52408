/** What the tests of an application import: a server in memory that needs no Postgres. */
export { serial } from './testing/database.js';
export { testServer } from './testing/server.js';
