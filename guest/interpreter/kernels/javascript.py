"""One Node.js process for all cells of a context (session.js), also for TypeScript."""

import asyncio
import functools
import json
import os
import shutil
import signal
import socket
import subprocess

from .process import DIES_WITH_US, ProcessKernel, readable

SESSION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "session.js")


@functools.cache
def _typescript_installed() -> bool:
    return subprocess.run(["node", "-e", "require('typescript')"], capture_output=True, check=False).returncode == 0


class JavaScriptKernel(ProcessKernel):
    def __init__(self, language: str):
        super().__init__()
        self._language = language

    @staticmethod
    def installed(language: str) -> bool:
        return shutil.which("node") is not None and (language != "typescript" or _typescript_installed())

    def _spawn(self, cwd, stdout, stderr):
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        self._received = b""
        try:
            return subprocess.Popen(
                [*DIES_WITH_US, "node", SESSION, str(theirs.fileno()), self._language],
                cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        finally:
            theirs.close()

    async def _ready(self):
        await self._answer()

    async def run_silently(self, code):
        await self._process.or_death(self._ask({"control": code}))

    async def _run(self, code):
        answer = await self._ask({"code": code})
        if "error" in answer:
            return [{"type": "error", **answer["error"]}]
        if "text" in answer:
            return [{"type": "result", "is_main_result": True, "text": answer["text"]}]
        return []

    async def _ask(self, question: dict) -> dict:
        await asyncio.get_running_loop().sock_sendall(self._channel, json.dumps(question).encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict:
        while b"\n" not in self._received:
            await readable(self._channel.fileno())
            data = self._channel.recv(1 << 20)
            if not data:
                raise EOFError
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        return json.loads(line)

    async def interrupt(self):
        os.kill(self._process.pid, signal.SIGINT)

    def _close(self):
        self._channel.close()
