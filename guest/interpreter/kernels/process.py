"""A language's own interpreter as a kernel: a process whose stdout and stderr are the cell's, and which says on a channel
of its own that a cell is finished."""

import asyncio
import codecs
import datetime
import fcntl
import os
import struct
import subprocess
import termios

from events import stream
from .base import Process, answer_of_new_kernel

# Before a command: should the interpreter be killed, no kernel of it is left computing for nobody.
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"]


async def readable(fd: int):
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)


class OutputPipe:
    """Passes on what comes out of a pipe. While nobody takes it, the writer waits."""

    def __init__(self, name: str, emit):
        self._name = name
        self._emit = emit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._read = self._passed = 0
        self._progress = asyncio.Event()
        self._fd, self.write_end = os.pipe()
        self._task = asyncio.create_task(self._pump())

    async def _pump(self):
        while True:
            await readable(self._fd)
            data = os.read(self._fd, 65536)
            self._read += len(data)
            if text := self._decoder.decode(data, final=not data):
                await self._emit(stream(self._name, text, datetime.datetime.now(datetime.timezone.utc)))
            self._passed = self._read
            self._progress.set()
            if not data:
                return

    async def drain(self):
        """Until all that has been written so far is passed on; others may go on writing."""
        waiting = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, b"\0" * 4))[0]
        goal = self._read + waiting
        while self._passed < goal:
            self._progress.clear()
            await self._progress.wait()

    async def close(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        os.close(self._fd)


class ProcessKernel:
    """Subclasses say how the process is started and told to run a cell, and what its answers mean."""

    def __init__(self):
        self._process: Process | None = None
        self._popen: subprocess.Popen | None = None
        self._outputs: list[OutputPipe] = []
        self._emit_to = None
        self._count = 0

    def _spawn(self, cwd: str, stdout: int, stderr: int) -> subprocess.Popen:
        raise NotImplementedError

    async def _run(self, code: str) -> list[dict]:
        """Has a cell run and returns the events of its end."""
        raise NotImplementedError

    async def _ready(self):
        """Until the first cell may be given."""

    def _close(self):
        """Closes what _spawn opened."""

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    async def start(self, cwd: str):
        await self.stop()
        self._count = 0
        self._outputs = [OutputPipe("stdout", self._emit), OutputPipe("stderr", self._emit)]
        ends = [output.write_end for output in self._outputs]
        try:
            self._popen = self._spawn(cwd, *ends)
        finally:
            for end in ends:
                os.close(end)
        self._process = Process(self._popen.pid)
        await answer_of_new_kernel(self._process.or_death(self._ready()))

    async def _emit(self, event: dict):
        if self._emit_to is not None:
            await self._emit_to(event)

    async def execute(self, code: str, emit):
        self._count += 1
        self._emit_to = emit
        try:
            await emit({"type": "number_of_executions", "execution_count": self._count})
            for event in await self._process.or_death(self._run_and_drain(code)):
                await emit(event)
        finally:
            self._emit_to = None

    async def run_silently(self, code: str):
        await self._process.or_death(self._run_and_drain(code))

    async def _run_and_drain(self, code: str) -> list[dict]:
        events = await self._run(code)
        for output in self._outputs:
            await output.drain()
        return events

    async def kill(self):
        if self._process is not None:
            await self._process.kill()

    async def stop(self):
        await self.kill()
        if self._popen is not None:
            self._popen.wait()
            self._popen = None
            self._close()
        for output in self._outputs:
            await output.close()
        self._outputs = []
        self._process = None
