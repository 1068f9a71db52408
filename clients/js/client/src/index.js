export { createClient } from './client.js';
export { RowtideError } from './error.js';
export { indexedDBStorage, memoryStorage } from './storage.js';
