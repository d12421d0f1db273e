// What the page's server.mjs leaves to its reader: clients, and how people sign in. Here everybody may.

import { readFileSync } from 'node:fs';

const { clients, discovery, api } = JSON.parse(readFileSync(new URL('configuration.json', import.meta.url)));

// An API whose tokens are JWTs (RFC 9068); without one they are opaque.
const resourceIndicators = {
  enabled: true,
  defaultResource: () => api,
  useGrantedResource: () => true,
  getResourceServerInfo: () => ({ scope: 'read', audience: api, accessTokenFormat: 'jwt' }),
};

export default {
  clients,
  discovery,
  cookies: { keys: ['of no importance'] },
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    ...(api ? { resourceIndicators } : {}),
  },
};
