"""A Jupyter kernel, spoken to over Unix sockets."""

import asyncio
import os
import uuid

import zmq.asyncio
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_path

from events import event_of, reply_error
from .base import RUNTIME_DIRECTORY, Process, UnknownLanguage, answer_of_new_kernel
from .java import JavaKernel
from .process import DIES_WITH_US

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Our own kernel specifications come first, then those anybody installed.
_specifications = KernelSpecManager(
    kernel_dirs=[os.path.join(HERE, "specs"), *jupyter_path("kernels")], ensure_native_kernel=False
)
# The names under which a language's kernel may be installed. jupyter_client has its own idea of what "python" is.
INSTALLED_AS = {"python": ["cube-python"], "r": ["r", "ir"]}
REPLY_SECONDS = 5.0  # after a kernel said that it is idle
_sockets = zmq.asyncio.Context()
# What is not read yet waits with the kernel that printed it, and a Python kernel with what is printed.
_sockets.setsockopt(zmq.RCVHWM, 100)


def _kernel_for(language: str) -> str:
    """The name of the installed kernel."""
    installed = _specifications.find_kernel_specs()
    for name in INSTALLED_AS.get(language, [language]):
        if name in installed:
            return name
    languages = {name: language for language, names in INSTALLED_AS.items() for name in names}
    known = {languages.get(name, name) for name in installed}
    known |= {"python", "bash", "javascript", "typescript"} | ({"java"} if JavaKernel.installed() else set())
    known = sorted(known)
    raise UnknownLanguage(f"No kernel for '{language}' is installed; there are: {', '.join(known)}")


class JupyterKernel:
    def __init__(self, name: str):
        self._language = name
        self._manager = None
        self._client = None
        self._process: Process | None = None
        self._listener: asyncio.Task | None = None
        self._message = ""  # the identifier of the running cell's request
        self._emit = None
        self._idle = asyncio.Event()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    async def start(self, cwd: str):
        await self.stop()
        self._manager = AsyncKernelManager(
            kernel_name=_kernel_for(self._language),
            kernel_spec_manager=_specifications,
            context=_sockets,
            transport="ipc",
            connection_file=os.path.join(RUNTIME_DIRECTORY, f"{uuid.uuid4()}.json"),
        )
        if self._manager.kernel_name != "cube-python":  # which sees to that itself
            self._manager.kernel_spec.argv[:0] = DIES_WITH_US
        await self._manager.start_kernel(cwd=cwd, env=dict(os.environ))
        self._process = Process(self._manager.provisioner.pid)
        self._client = self._manager.client()
        self._client.start_channels(stdin=False, hb=False, control=False)
        self._listener = asyncio.create_task(self._listen())
        await answer_of_new_kernel(self._process.or_death(self._handshake()))

    async def _handshake(self):
        """Until the kernel answers and its outputs reach us: a subscription made too late misses them. Asked again after
        ever longer, it answers faster than it is asked, however slow it is."""
        patience = 1
        while True:
            self._idle.clear()
            self._message = self._client.kernel_info()
            try:
                await asyncio.wait_for(self._finished(), patience)
                return
            except asyncio.TimeoutError:
                patience *= 2

    async def execute(self, code: str, emit):
        await self._request(code, emit, silent=False)

    async def run_silently(self, code: str):
        await self._request(code, None, silent=True)

    async def _request(self, code: str, emit, silent: bool):
        self._idle.clear()
        self._emit, self._errored = emit, False
        self._message = self._client.execute(
            code, silent=silent, store_history=not silent, allow_stdin=False, stop_on_error=False
        )
        try:
            reply = await self._process.or_death(self._finished())
        finally:
            self._emit = None
        if emit is not None and not self._errored and (error := reply_error(reply)):
            await emit(error)

    async def _finished(self) -> dict:
        """The reply, when the outputs are here, too: they travel on a socket of their own, and "idle" is the last of them.
        A kernel that was interrupted outside the cell's own code is idle, but never replies."""
        reply = asyncio.ensure_future(self._reply())
        try:
            await self._idle.wait()
            return await asyncio.wait_for(reply, REPLY_SECONDS)
        except asyncio.TimeoutError:
            return {"status": "aborted"}
        finally:
            reply.cancel()

    async def _reply(self) -> dict:
        while True:
            reply = await self._client.get_shell_msg(timeout=None)
            if reply["parent_header"].get("msg_id") == self._message:
                return reply["content"]

    async def _listen(self):
        while True:
            await asyncio.sleep(0)  # what is there already is got without a turn for anybody else
            message = await self._client.get_iopub_msg(timeout=None)
            if message["parent_header"].get("msg_id") != self._message:
                continue  # of a thread an earlier cell left behind
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                self._idle.set()
            elif self._emit is not None and (event := event_of(message)):
                self._errored |= event["type"] == "error"
                await self._emit(event)

    async def interrupt(self):
        await self._manager.interrupt_kernel()

    async def kill(self):
        if self._process is not None:
            await self._process.kill()

    async def stop(self):
        await self.kill()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        if self._client is not None:
            self._client.stop_channels()
        if self._manager is not None:
            await self._manager.shutdown_kernel(now=True)  # takes its files away
        self._manager = self._client = self._process = self._listener = None
