// What a user does, with E2B's own JavaScript SDKs. E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY say where.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Sandbox } from 'e2b'
import { Sandbox as CodeInterpreter } from '@e2b/code-interpreter'

async function withSandbox(create, use) {
  const sandbox = await create()
  try {
    return await use(sandbox)
  } finally {
    await sandbox.kill()
  }
}

test('commands run and stream', () =>
  withSandbox(() => Sandbox.create('base'), async (sandbox) => {
    let streamed = ''
    const result = await sandbox.commands.run('uname -r; echo no >&2', { onStdout: (text) => { streamed += text } })
    assert.match(result.stdout, /^6\.12.*cube\n$/)
    assert.equal(result.stderr, 'no\n')
    assert.equal(streamed, result.stdout)
    await assert.rejects(sandbox.commands.run('exit 3'), { exitCode: 3 })
  }))

test('background, stdin and kill', () =>
  withSandbox(() => Sandbox.create('base'), async (sandbox) => {
    let said
    const heard = new Promise((resolve) => { said = resolve })
    const handle = await sandbox.commands.run('cat', { background: true, stdin: true, onStdout: said })
    await sandbox.commands.sendStdin(handle.pid, 'ping\n')
    assert.equal(await heard, 'ping\n')
    assert.equal(await sandbox.commands.kill(handle.pid), true)
    await assert.rejects(handle.wait()) // its end is known from here on
    assert.equal(await sandbox.commands.kill(handle.pid), false)
  }))

test('files', () =>
  withSandbox(() => Sandbox.create('base'), async (sandbox) => {
    await sandbox.files.write('dir/text.txt', 'hello')
    assert.equal(await sandbox.files.read('dir/text.txt'), 'hello')
    assert.deepEqual((await sandbox.files.list('dir')).map((entry) => entry.name), ['text.txt'])
    await sandbox.files.rename('dir/text.txt', 'dir/other.txt')
    assert.equal(await sandbox.files.exists('dir/text.txt'), false)
    await sandbox.files.remove('dir')
    assert.equal(await sandbox.files.exists('dir'), false)
  }))

test('life cycle', async () => {
  const sandbox = await Sandbox.create('base', { metadata: { 'a&': 'b c' } })
  assert.equal(await sandbox.isRunning(), true)
  const page = await Sandbox.list({ query: { metadata: { 'a&': 'b c' } } }).nextItems()
  assert.deepEqual(page.map((item) => item.sandboxId), [sandbox.sandboxId])
  const same = await Sandbox.connect(sandbox.sandboxId)
  assert.equal((await same.commands.run('echo again')).stdout, 'again\n')
  assert.equal(await sandbox.kill(), true)
  assert.equal(await sandbox.kill(), false)
  assert.equal(await sandbox.isRunning(), false)
})

test('code interpreter', () =>
  withSandbox(() => CodeInterpreter.create(), async (sandbox) => {
    const execution = await sandbox.runCode('x = 20\nprint("out")\nx + 22')
    assert.equal(execution.text, '42')
    assert.deepEqual(execution.logs.stdout, ['out\n'])
  }))
