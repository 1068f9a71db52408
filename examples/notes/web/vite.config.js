import { defineConfig } from 'vite';

/** Where `rowtide dev` listens. */
const server = process.env.SYNC_SERVER ?? 'http://127.0.0.1:4400';

const proxy = {
  '/sync': { target: server, ws: true },
  '/doc': { target: server, ws: true },
  '/playground': { target: server },
};

export default defineConfig({
  // One copy of each: what these packages give each other must be of one kind.
  resolve: { dedupe: ['yjs', '@codemirror/state', '@codemirror/view'] },
  // An editor is most of it.
  build: { chunkSizeWarningLimit: 700 },
  server: { proxy },
  preview: { proxy },
});
