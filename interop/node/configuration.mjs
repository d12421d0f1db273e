// What the page's server.mjs leaves to its reader: clients, and how people sign in. Here everybody may.

import { readFileSync } from 'node:fs';

const { clients, discovery } = JSON.parse(readFileSync(new URL('configuration.json', import.meta.url)));

export default {
  clients,
  discovery,
  cookies: { keys: ['of no importance'] },
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
  },
};
