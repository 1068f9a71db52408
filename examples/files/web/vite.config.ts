import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

/** Where `rowtide dev` listens. */
const server = process.env.SYNC_SERVER ?? 'http://127.0.0.1:4400';

const proxy = {
  '/sync': { target: server, ws: true },
  '/app': { target: server, ws: true },
  '/playground': { target: server },
};

export default defineConfig({
  plugins: [react()],
  // The client's packages are linked from this repository, and must find this application's React.
  resolve: { dedupe: ['react', 'react-dom'] },
  server: { proxy },
  preview: { proxy },
});
