// A relying party with openid-client: plays one scene, given as JSON in the first argument, and prints what it saw as JSON.
//
// Scene: play ("discover", "credentials", "login"), issuer, ca, client ({id, certificate, key}), aliases (whether to use them),
// redirect and thief (another client's files) for "login". An answer that is an error is printed as {status, error}.

import { readFileSync } from 'node:fs';
import { webcrypto } from 'node:crypto';

import * as oidc from 'openid-client';
import { Agent, fetch } from 'undici';

globalThis.crypto ??= webcrypto; // Node.js 18

const scene = JSON.parse(process.argv[2]);
const asked = []; // every URL, to see which host was asked

function fetchAs(files) {
  const connect = { ca: readFileSync(scene.ca) };
  if (files?.certificate) {
    connect.cert = readFileSync(files.certificate);
    connect.key = readFileSync(files.key);
  }
  const dispatcher = new Agent({ connect });
  return (url, options) => {
    asked.push(String(url));
    return fetch(url, { ...options, dispatcher });
  };
}

function discover() {
  const metadata = { use_mtls_endpoint_aliases: Boolean(scene.aliases) };
  const options = { [oidc.customFetch]: fetchAs(scene.client) };
  return oidc.discovery(new URL(scene.issuer), scene.client.id, metadata, oidc.TlsClientAuth(), options);
}

// A browser without a certificate and with cookies, whose owner signs in and says yes to everything.
async function browse(url) {
  const request = fetchAs();
  const cookies = new Map();
  let options = {};
  for (let hop = 0; hop < 20; hop += 1) {
    const headers = { ...options.headers, cookie: [...cookies].map((pair) => pair.join('=')).join('; ') };
    const response = await request(url, { ...options, headers, redirect: 'manual' });
    for (const line of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      cookies.set(name, value);
    }
    const page = await response.text();
    options = {};
    if (response.headers.has('location')) {
      url = new URL(response.headers.get('location'), url);
      if (url.href.startsWith(scene.redirect)) return url;
    } else {
      const prompt = /name="prompt" value="(login|consent)"/.exec(page)?.[1];
      if (!prompt) throw new Error(`unexpected page, status ${response.status}: ${page}`);
      const body = new URLSearchParams({ prompt, login: 'somebody', password: 'x' });
      url = new URL(/action="([^"]+)"/.exec(page)[1], url);
      options = { method: 'POST', body: body.toString(), headers: { 'content-type': 'application/x-www-form-urlencoded' } };
    }
  }
  throw new Error('the browser was sent from place to place');
}

async function login(config) {
  const verifier = oidc.randomPKCECodeVerifier();
  const state = oidc.randomState();
  const start = oidc.buildAuthorizationUrl(config, {
    redirect_uri: scene.redirect,
    scope: 'openid',
    state,
    code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  });
  const back = await browse(start);
  const token = await oidc.authorizationCodeGrant(config, back, { pkceCodeVerifier: verifier, expectedState: state });
  const { sub } = token.claims();
  const introspection = await oidc.tokenIntrospection(config, token.access_token);
  const userinfo = await oidc.fetchUserInfo(config, token.access_token, sub);
  config[oidc.customFetch] = fetchAs(scene.thief);
  const stolen = await oidc.fetchUserInfo(config, token.access_token, sub).catch(explain);
  return { token, introspection, userinfo, stolen };
}

async function credentials(config) {
  const token = await oidc.clientCredentialsGrant(config);
  return { token, introspection: await oidc.tokenIntrospection(config, token.access_token) };
}

function explain(error) {
  const { status, error: code, cause } = error;
  if (status === undefined) throw error;
  return { status, error: code ?? cause?.[0]?.parameters?.error };
}

const plays = { discover: () => ({}), credentials, login };
const config = await discover();
const seen = await Promise.resolve(plays[scene.play](config)).catch((error) => ({ refused: explain(error) }));
console.log(JSON.stringify({ metadata: config.serverMetadata(), asked, ...seen }));
