// An OpenID provider with one client, which gets JWTs by client credentials.
//
//   node server.mjs MODULES FOLDER PORT CLIENT_ID SECONDS
//
// MODULES is where oidc-provider is installed. FOLDER/secret holds the client's secret, read at every request,
// FOLDER/jwks.json the signing key, made if it is missing; with FOLDER/tls.pem it speaks HTTPS. SECONDS is how long a
// token is valid.
import { generateKeyPairSync } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, folder, port, client, seconds] = process.argv.slice(2);
const installed = createRequire(join(modules, 'package.json'));
const { default: Provider } = await import(pathToFileURL(installed.resolve('oidc-provider')));

const keys = join(folder, 'jwks.json');
if (!existsSync(keys)) {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const key = { ...privateKey.export({ format: 'jwk' }), kid: 'test', alg: 'RS256', use: 'sig' };
  writeFileSync(keys, JSON.stringify({ keys: [key] }));
}
const ttl = Number(seconds);
const resource = { scope: 'kafka', audience: 'kafka', accessTokenTTL: ttl, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } };
const adapters = new Map();

class Adapter {
  constructor(name) { this.name = name; }
  async find(id) {
    if (this.name !== 'Client') return adapters.get(this.name + id);
    if (id !== client) return undefined;
    return {
      client_id: client, scope: 'kafka', client_secret: readFileSync(join(folder, 'secret'), 'utf8'), redirect_uris: [], response_types: [],
      grant_types: ['client_credentials'], token_endpoint_auth_method: 'client_secret_basic',
    };
  }
  async upsert(id, payload) { adapters.set(this.name + id, payload); }
  async destroy(id) { adapters.delete(this.name + id); }
  async consume() {}
  async revokeByGrantId() {}
  async findByUid() {}
  async findByUserCode() {}
}

const provider = new Provider(`http://127.0.0.1:${port}`, {
  adapter: Adapter,
  jwks: JSON.parse(readFileSync(keys, 'utf8')),
  scopes: ['kafka'],
  ttl: { ClientCredentials: ttl },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'urn:kafka',
      getResourceServerInfo: () => resource,
    },
  },
});
provider.on('grant.success', () => console.log('granted'));
const tls = join(folder, 'tls.pem');
const pem = existsSync(tls) && readFileSync(tls);
const answer = provider.callback();
const server = pem ? createHttpsServer({ key: pem, cert: pem }, answer) : createHttpServer(answer);
server.listen(Number(port), '127.0.0.1', () => console.log('listening'));
