// Runs cells for javascript.py: node session.js CHANNEL LANGUAGE. CHANNEL is the number of a connected socket on which
// requests come and answers go, one JSON object a line. The cells themselves are evaluated by Node's own REPL, which
// knows top-level await, re-declared constants and interrupts.
'use strict';
const net = require('net');
const repl = require('repl');
const util = require('util');
const { PassThrough } = require('stream');

const [, , channelNumber, language] = process.argv;
const channel = new net.Socket({ fd: Number(channelNumber) });
const answer = (object) => channel.write(JSON.stringify(object) + '\n');

const shell = repl.start({
  prompt: '', terminal: false, input: new PassThrough(), output: new PassThrough().resume(),
  useGlobal: true, breakEvalOnSigint: true, ignoreUndefined: true,
});
process.on('SIGINT', () => {}); // outside of a cell there is nothing to interrupt

const transpile = language === 'typescript' ? typescriptCompiler() : (code) => code;
function typescriptCompiler() {
  const ts = require('typescript');
  const compilerOptions = {
    target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, isolatedModules: true, preserveValueImports: true,
  };
  return (code) => ts.transpileModule(code, { compilerOptions }).outputText.replace(/^export \{\};$/m, '');
}

// A cell is a script, and scripts have no import statements: they become calls. The names stay for the later cells.
const IMPORT = /^[ \t]*import\s+(?:([\w$]+)\s*,?\s*)?(?:\*\s*as\s+([\w$]+)\s+|\{([^}]*)\}\s*)?(?:from\s*)?(['"])([^'"\n]+)\4[ \t]*;?/gm;
function withoutImportStatements(code) {
  return code.replace(IMPORT, (statement, byDefault, namespace, names, quote, module) => {
    const loaded = `await import(${JSON.stringify(module)})`;
    const targets = [];
    if (byDefault) targets.push(`default: ${byDefault}`);
    if (names) targets.push(...names.split(',').map((n) => n.trim()).filter(Boolean).map((n) => n.replace(/\s+as\s+/, ': ')));
    if (namespace) return `var ${namespace} = ${loaded};` + (byDefault ? ` var ${byDefault} = ${namespace}.default;` : '');
    return targets.length ? `var {${targets.join(', ')}} = ${loaded};` : `${loaded};`;
  });
}

function evaluate(code) {
  return new Promise((resolve, reject) => {
    shell.eval(code + '\n', shell.context, 'cell', (error, value) => {
      if (!error) return resolve(value);
      return reject(error instanceof repl.Recoverable ? error.err : error);
    });
  });
}

async function run(code) {
  try {
    const value = await evaluate(withoutImportStatements(transpile(code)));
    return value === undefined ? {} : { text: typeof value === 'string' ? value : util.inspect(value) };
  } catch (error) {
    if (!(error instanceof Error) && typeof error?.stack !== 'string') {
      return { error: { name: 'Error', value: `Uncaught ${util.inspect(error)}`, traceback: '' } };
    }
    return { error: { name: String(error.name), value: String(error.message), traceback: String(error.stack) } };
  }
}

// What languages.py asks for.
const base = { ...process.env };
const pushed = [];
function restore(variables) {
  for (const [name, value] of Object.entries(variables)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
}
const cube = {
  setEnvironment(variables, removed) {
    restore(Object.fromEntries(removed.map((name) => [name, base[name]])));
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
