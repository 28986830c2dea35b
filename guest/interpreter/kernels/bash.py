"""One bash for all cells of a context. It is interactive, on a terminal of its own, because only then an interrupt ends
the whole cell and not the shell; what the cells print goes through pipes all the same."""

import os
import pty
import shutil
import subprocess
import tempfile
import termios

from .base import RUNTIME_DIRECTORY
from .process import DIES_WITH_US, ProcessKernel, readable

START_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bash.rc")


class BashKernel(ProcessKernel):
    @staticmethod
    def installed() -> bool:
        return shutil.which("bash") is not None and shutil.which("setsid") is not None

    def _spawn(self, cwd, stdout, stderr):
        self._terminal, line = pty.openpty()
        self._status, status = os.pipe()
        self._statuses = b""
        file, self._cell = tempfile.mkstemp(prefix="cell-", dir=RUNTIME_DIRECTORY)
        os.close(file)
        attributes = termios.tcgetattr(line)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(line, termios.TCSANOW, attributes)
        try:
            return subprocess.Popen(
                [*DIES_WITH_US, "setsid", "--ctty", "bash", "--noprofile", "--rcfile", START_FILE, "--noediting", "-i"],
                cwd=cwd, stdin=line, stdout=stdout, stderr=stderr, pass_fds=(status,),
                env={**os.environ, "CUBE_STATUS_FD": str(status), "CUBE_CELL": self._cell},
            )
        finally:
            os.close(line)
            os.close(status)

    async def _ready(self):
        await self._next_status()

    async def _run(self, code):
        with open(self._cell, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(code)
        os.write(self._terminal, b"__cube_cell\n")
        status = await self._next_status()
        if status == 0:
            return []
        return [{"type": "error", "name": "ExitStatus", "value": str(status), "traceback": ""}]

    async def _next_status(self) -> int:
        while b"\n" not in self._statuses:
            await readable(self._status)
            data = os.read(self._status, 4096)
            if not data:
                raise EOFError
            self._statuses += data
        line, self._statuses = self._statuses.split(b"\n", 1)
        return int(line)

    async def interrupt(self):
        os.write(self._terminal, b"\x03")

    def _close(self):
        os.close(self._terminal)
        os.close(self._status)
        os.unlink(self._cell)
