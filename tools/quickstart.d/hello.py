"""Runs code in a sandbox with E2B's unmodified SDK; E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY say where."""

import time

from e2b_code_interpreter import Sandbox

started = time.monotonic()
with Sandbox.create() as sandbox:
    created = time.monotonic()
    execution = sandbox.run_code("import platform; print('Hello from', platform.release())")
    first_code = time.monotonic()
    print("".join(execution.logs.stdout), end="")
    if execution.error:
        raise SystemExit(f"{execution.error.name}: {execution.error.value}")
    print(sandbox.commands.run("uname -a && id").stdout, end="")
    first_command = time.monotonic()
print(
    f"create: {1000 * (created - started):.0f} ms, "
    f"first code: {1000 * (first_code - created):.0f} ms, "
    f"first command: {1000 * (first_command - first_code):.0f} ms"
)
