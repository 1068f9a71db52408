import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

/** Where `rowtide dev --example tracker` listens. */
const server = process.env.SYNC_SERVER ?? 'http://127.0.0.1:4400';

export default defineConfig({
  plugins: [svelte()],
  server: { proxy: { '/sync': { target: server, ws: true }, '/playground': { target: server } } },
});
