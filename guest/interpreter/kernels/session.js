// Runs cells for javascript.py: node session.js CHANNEL LANGUAGE. CHANNEL is the number of a connected socket on which
// requests come and answers go, one JSON object a line. V8's inspector evaluates the cells as a browser's console does:
// with top-level await, and with constants that may be declared anew.
'use strict';
const inspector = require('inspector');
const net = require('net');
const path = require('path');
const util = require('util');
const { createRequire } = require('module');
const { pathToFileURL } = require('url');

const [, , channelNumber, language] = process.argv;
const channel = new net.Socket({ fd: Number(channelNumber) });
const answer = (object) => channel.write(JSON.stringify(object) + '\n');
const session = new inspector.Session();
session.connect();

// A cell that waits is interrupted by this. One that computes without a pause is not: the interpreter gives up waiting
// and starts a new process.
let interrupt = () => {};
process.on('SIGINT', () => interrupt(new Error('The execution was interrupted')));

globalThis.require = createRequire(path.join(process.cwd(), 'cell.js'));
// What import() does in a file: modules are looked up from the working directory.
const hidden = (name, value) => Object.defineProperty(globalThis, name, { value, configurable: true });
hidden('__cubeImport', async (specifier) => {
  try {
    const found = globalThis.require.resolve(specifier);
    return await import(path.isAbsolute(found) ? pathToFileURL(found) : found);
  } catch (error) {
    return import(specifier).catch(() => { throw error; });
  }
});
let taken;
hidden('__cubeTake', (value) => { taken = value; });

const transpile = language === 'typescript' ? typescriptCompiler() : (code) => code;
function typescriptCompiler() {
  const ts = require('typescript');
  const compilerOptions = {
    target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, isolatedModules: true, preserveValueImports: true,
  };
  return (code) => ts.transpileModule(code, { compilerOptions }).outputText.replace(/^export \{\};$/m, '');
}

// A cell is a script, and scripts have no import: it becomes calls. The names stay for the later cells.
const IMPORT = /^[ \t]*import\s+(?:([\w$]+)\s*,?\s*)?(?:\*\s*as\s+([\w$]+)\s+|\{([^}]*)\}\s*)?(?:from\s*)?(['"])([^'"\n]+)\4[ \t]*;?/gm;
function withoutImport(code) {
  return code.replace(/(?<![.\w$])import\s*\(/g, '__cubeImport(').replace(IMPORT, (statement, byDefault, namespace, names, quote, module) => {
    const loaded = `await __cubeImport(${JSON.stringify(module)})`;
    const targets = [];
    if (byDefault) targets.push(`default: ${byDefault}`);
    if (names) targets.push(...names.split(',').map((n) => n.trim()).filter(Boolean).map((n) => n.replace(/\s+as\s+/, ': ')));
    if (namespace) return `var ${namespace} = ${loaded};` + (byDefault ? ` var ${byDefault} = ${namespace}.default;` : '');
    return targets.length ? `var {${targets.join(', ')}} = ${loaded};` : `${loaded};`;
  });
}

function post(method, parameters) {
  return new Promise((resolve, reject) => {
    session.post(method, parameters, (error, result) => (error ? reject(error) : resolve(result)));
  });
}

// The value behind what the inspector tells of it.
async function valueOf(remote) {
  if (!remote.objectId) return 'value' in remote ? remote.value : undefined;
  await post('Runtime.callFunctionOn', {
    objectId: remote.objectId, functionDeclaration: 'function () { __cubeTake(this); }',
  });
  const value = taken;
  taken = undefined;
  return value;
}

async function run(code) {
  const interrupted = new Promise((_, reject) => { interrupt = reject; });
  try {
    const expression = withoutImport(transpile(code));
    const evaluated = post('Runtime.evaluate', { expression, replMode: true, awaitPromise: true, objectGroup: 'cell' });
    const { result, exceptionDetails } = await Promise.race([evaluated, interrupted]);
    if (exceptionDetails) return { error: describe(await valueOf(exceptionDetails.exception ?? result)) };
    if (result.type === 'undefined') return {};
    if (result.type === 'string') return { text: result.value };
    return { text: result.objectId ? util.inspect(await valueOf(result)) : result.description ?? String(result.value) };
  } catch (error) {
    return { error: describe(error) };
  } finally {
    session.post('Runtime.releaseObjectGroup', { objectGroup: 'cell' });
  }
}

function describe(error) {
  if (!util.types.isNativeError(error)) return { name: 'Error', value: `Uncaught ${util.inspect(error)}`, traceback: '' };
  // Below the cell's own lines are only ours.
  const stack = String(error.stack).split('\n');
  const ours = stack.findIndex((line) => line.includes('Session.post'));
  const lines = ours < 0 ? stack : stack.slice(0, ours);
  return { name: String(error.name), value: String(error.message), traceback: lines.join('\n') };
}

// What languages.py asks for.
const pushed = [];
function restore(variables) {
  for (const [name, value] of Object.entries(variables)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
}
const cube = {
  setEnvironment(variables, removed) {
    for (const name of removed) delete process.env[name];
    Object.assign(process.env, variables);
  },
  pushEnvironment(variables) {
    pushed.push(Object.fromEntries(Object.keys(variables).map((name) => [name, process.env[name]])));
    Object.assign(process.env, variables);
  },
  popEnvironment() {
    restore(pushed.pop() ?? {});
  },
  // V8 cannot be given a new seed. A clone's Math.random is xoshiro128** from then on.
  reseed(hex) {
    const state = new Uint32Array(hex.match(/.{8}/g).map((part) => parseInt(part, 16)));
    const rotate = (x, n) => (x << n) | (x >>> (32 - n));
    const next = () => {
      const word = Math.imul(rotate(Math.imul(state[1], 5), 7), 9) >>> 0;
      const shifted = state[1] << 9;
      state[2] ^= state[0]; state[3] ^= state[1]; state[1] ^= state[2]; state[0] ^= state[3];
      state[2] ^= shifted; state[3] = rotate(state[3], 11);
      return word;
    };
    Math.random = () => ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992;
  },
};

let received = '';
let last = Promise.resolve();
channel.setEncoding('utf8');
channel.on('data', (text) => {
  received += text;
  const lines = received.split('\n');
  received = lines.pop();
  for (const line of lines) last = last.then(() => serve(JSON.parse(line)));
});
channel.on('end', () => process.exit());
async function serve(request) {
  if ('control' in request) {
    new Function('cube', request.control)(cube);
    answer({});
  } else {
    answer(await run(request.code));
  }
}

// An error nobody caught ends neither the session nor the cell.
process.on('uncaughtException', (error) => process.stderr.write(`Uncaught ${util.inspect(error)}\n`));
process.on('unhandledRejection', (error) => process.stderr.write(`Uncaught (in promise) ${util.inspect(error)}\n`));
answer({ ready: true });
