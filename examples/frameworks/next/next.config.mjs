import { fileURLToPath } from 'node:url';

export default {
  // The client is linked from this repository, which is above this directory.
  outputFileTracingRoot: fileURLToPath(new URL('../../..', import.meta.url)),
  transpilePackages: ['@rowtide/client'],
};
