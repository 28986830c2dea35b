"""One Java process for all cells of a context (Session.java): the language's own JShell, in the process itself."""

import fcntl
import functools
import os
import shutil
import signal
import struct
import subprocess
import tempfile

from .base import RUNTIME_DIRECTORY
from .process import DIES_WITH_US, ProcessKernel, readable

HERE = os.path.dirname(os.path.abspath(__file__))
# Starts soon rather than runs fast, and takes no more memory than it needs.
OPTIONS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "--add-modules=jdk.jshell,jdk.unsupported"]


@functools.cache
def _has_jshell() -> bool:
    modules = subprocess.run(["java", "--list-modules"], capture_output=True, check=False).stdout
    return b"jdk.jshell@" in modules


def _program() -> list[str]:
    """Compiled when the image was made, if there was a compiler; else Java compiles it at every start."""
    if os.path.exists(os.path.join(HERE, "Session.class")):
        return ["-classpath", HERE, "Session"]
    return [os.path.join(HERE, "Session.java")]


class JavaKernel(ProcessKernel):
    @staticmethod
    def installed() -> bool:
        return shutil.which("java") is not None and _has_jshell()

    def _spawn(self, cwd, stdout, stderr):
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._received = b""
        for output in (stdout, stderr):
            fcntl.fcntl(output, fcntl.F_SETFL, os.O_DIRECT)  # each write is read by itself (Session.java)
        file, self._cell = tempfile.mkstemp(prefix="cell-", dir=RUNTIME_DIRECTORY)
        os.close(file)
        try:
            return subprocess.Popen(
                [*DIES_WITH_US, "java", *OPTIONS, *_program(), self._cell, str(requests), str(answers)],
                cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, pass_fds=(requests, answers),
                start_new_session=True,
            )
        finally:
            os.close(requests)
            os.close(answers)

    async def _ready(self):
        await self._answer()

    async def _run(self, code):
        with open(self._cell, "w", encoding="utf-8", errors="replace") as file:
            file.write(code)
        os.write(self._requests, b"\n")
        kind, *texts = await self._answer()
        if kind == "error":
            return [{"type": "error", **dict(zip(("name", "value", "traceback"), texts))}]
        if kind == "value":
            return [{"type": "result", "is_main_result": True, "text": texts[0]}]
        return []

    async def _answer(self) -> list[str]:
        (count,) = struct.unpack(">i", await self._read(4))
        texts = []
        for _ in range(count):
            (length,) = struct.unpack(">i", await self._read(4))
            texts.append((await self._read(length)).decode("utf-8", "replace"))
        return texts

    async def _read(self, length: int) -> bytes:
        while len(self._received) < length:
            await readable(self._answers)
            data = os.read(self._answers, 1 << 20)
            if not data:
                raise EOFError
            self._received += data
        data, self._received = self._received[:length], self._received[length:]
        return data

    async def interrupt(self):
        os.kill(self._process.pid, signal.SIGINT)

    def _close(self):
        os.close(self._requests)
        os.close(self._answers)
        os.unlink(self._cell)
