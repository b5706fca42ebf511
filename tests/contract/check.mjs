// Checks what `attio-bridge contract` prints with the tools of the JavaScript world. Standard input and output are JSON.
//
//   check.mjs validate      {schemas, documents: [{schema, value}]}: the errors of each document, by ajv
//   check.mjs cloudevents   {documents: [value]}: the errors of each, by the CloudEvents project's own JSON Schema
//   check.mjs asyncapi      {documents: [text]}: the errors of each, by AsyncAPI's parser, and its messages
//   check.mjs types FOLDER  {schemas, documents}: what tsc says of the documents as values of generated types
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const given = JSON.parse(readFileSync(0, 'utf8'));

function ajv(options) {
  const Ajv = require('ajv/dist/2020').default;
  const ajv = new Ajv({ allErrors: true, ...options });
  require('ajv-formats').default(ajv);
  return ajv;
}

const words = (errors) => (errors ?? []).map((error) => `${error.instancePath} ${error.message}`);

function validate({ schemas, documents }) {
  const strict = ajv({ strict: true, strictTypes: true, strictRequired: false });
  const compiled = Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, strict.compile(schema)]));
  return documents.map(({ schema, value }) => (compiled[schema](value) ? [] : words(compiled[schema].errors)));
}

function cloudevents({ documents }) {
  const validate = require('cloudevents/dist/schema/v1.js');
  return documents.map((value) => (validate(value) ? [] : words(validate.errors)));
}

async function asyncapi({ documents }) {
  const { Parser } = require('@asyncapi/parser');
  const results = [];
  for (const text of documents) {
    const { document, diagnostics } = await new Parser().parse(text);
    const errors = diagnostics.filter((found) => found.severity < 2).map((found) => `${found.path.join('/')} ${found.message}`);
    const lenient = ajv({ strict: false });
    const messages = {};
    for (const message of document?.allMessages().all() ?? []) {
      const examples = message.examples().all();
      messages[message.name()] = examples.length;
      for (const example of examples) {
        for (const [part, schema, value] of [
          ['payload', message.payload(), example.payload()],
          ['headers', message.headers(), example.headers()],
        ]) {
          if (schema && !lenient.validate(schema.json(), value)) errors.push(`${message.name()} ${part} ${words(lenient.errors)}`);
        }
      }
    }
    const addresses = document?.allChannels().all().map((channel) => channel.address()) ?? [];
    results.push({ errors, messages, addresses });
  }
  return results;
}

async function types({ schemas, documents }, folder) {
  const { compile } = require('json-schema-to-typescript');
  mkdirSync(folder, { recursive: true });
  const files = Object.keys(schemas).map((name) => `${name}.ts`);
  for (const [name, schema] of Object.entries(schemas)) {
    const uses = documents.filter((document) => document.schema === name).map((document) => JSON.stringify(document.value));
    const types = await compile({ ...schema, title: 'Event' }, 'Event', { bannerComment: '' });
    writeFileSync(`${folder}/${name}.ts`, `${types}\nexport const events: Event[] = [${uses.join(',\n')}];\n`);
  }
  const tsc = require.resolve('typescript/package.json').replace('package.json', 'bin/tsc');
  const config = { compilerOptions: { strict: true, noEmit: true, target: 'es2022', module: 'esnext', types: [] }, files };
  writeFileSync(`${folder}/tsconfig.json`, JSON.stringify(config));
  try {
    execFileSync(process.execPath, [tsc, '--project', folder]);
    return [];
  } catch (error) {
    return [`${error.stdout}${error.stderr}`];
  }
}

const checks = { validate, cloudevents, asyncapi, types };
const [name, ...rest] = process.argv.slice(2);
process.stdout.write(JSON.stringify(await checks[name](given, ...rest)));
