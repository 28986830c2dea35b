"""Contexts: a kernel each, with the cells it is given, one after the other."""

import asyncio
import logging
import os
import uuid

import languages
import sandbox
from kernels import RUNTIME_DIRECTORY, KernelDied, UnknownLanguage, make_kernel

__all__ = ["Contexts", "UnknownLanguage"]

DEFAULT_LANGUAGES = os.environ.get("CUBE_DEFAULT_LANGUAGES", "python,javascript,bash").split(",")
# Left by an interpreter that has warmed up. One that is started in its place does not, and serves at once: somebody waits.
WARM_FILE = os.path.join(os.environ.get("CUBE_RUNTIME_DIRECTORY", RUNTIME_DIRECTORY), "warm")
# How long a cell may take to end after each try to interrupt it; then its kernel is restarted. Ever longer: another
# interrupt hits the kernel while it makes the traceback of the one before.
INTERRUPT_PATIENCE = (3.0, 6.0, 12.0)

logger = logging.getLogger(__name__)


class Execution:
    """One cell and the events it makes. The queue is short: a client that reads slowly slows the cell down."""

    def __init__(self, code: str, variables: dict[str, str], access_token: str):
        self.code = code
        self.variables = variables
        self.access_token = access_token
        self.abandoned = asyncio.Event()
        self._events: asyncio.Queue = asyncio.Queue(maxsize=256)
        self._finished = False

    async def emit(self, event: dict | None):
        """Passes an event on to whoever listens."""
        if self.abandoned.is_set():
            return
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            await first_of(self._events.put(event), self.abandoned.wait())

    async def finish(self):
        """Ends the stream; a second time is the same as once."""
        if not self._finished:
            self._finished = True
            await self.emit(None)

    async def next_event(self) -> dict | None:
        return await self._events.get()

    def abandon(self):
        """Nobody listens any more."""
        self.abandoned.set()


async def first_of(*awaitables):
    """Waits for one of them and cancels the others."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def error_event(name: str, value: str) -> dict:
    return {"type": "error", "name": name, "value": value, "traceback": ""}


class Context:
    def __init__(self, language: str, cwd: str):
        self.id = str(uuid.uuid4())
        self.language = language
        self.cwd = cwd
        self._kernel = make_kernel(language)
        self._snippets = languages.of(language)
        self._turn = asyncio.Lock()  # one cell at a time
        self._tasks: set[asyncio.Task] = set()
        self._restart_wanted = False

    def description(self) -> dict:
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    async def start(self):
        # A new kernel draws its own random numbers and knows nothing of the sandbox's variables.
        self._identity = sandbox.identity()
        self._variables: dict[str, str] = {}
        await self._kernel.start(self.cwd)

    async def warm_up(self):
        if self._snippets.warm_up:
            await self._kernel.run_silently(self._snippets.warm_up)

    async def stop(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._kernel.stop()

    async def restart(self):
        self._restart_wanted = True
        await self._kernel.kill()  # a running cell ends with KernelDied and starts the next kernel itself
        async with self._turn:
            if not self._kernel.alive:
                await self.start()
            self._restart_wanted = False

    def submit(self, code: str, variables: dict[str, str], access_token: str) -> Execution:
        execution = Execution(code, variables, access_token)
        task = asyncio.create_task(self._take_turn(execution))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return execution

    async def _take_turn(self, execution: Execution):
        try:
            async with self._turn:
                if execution.abandoned.is_set():
                    return
                try:
                    await self._run(execution)
                except KernelDied as death:
                    await execution.emit(self._death_event(death))
                    await execution.finish()
                    await self.start()
        except asyncio.CancelledError:
            await execution.emit(error_event("UnexpectedEndOfExecution", "The context was removed"))
            raise
        except Exception as error:  # noqa: BLE001 a stream must end whatever happens
            logger.exception("context %s failed", self.id)
            await execution.emit(error_event("UnexpectedEndOfExecution", str(error)))
        finally:
            await execution.finish()

    def _death_event(self, death: KernelDied) -> dict:
        if self._restart_wanted:
            return error_event("ContextRestarting", "Context was restarted")
        return error_event(
            "UnexpectedEndOfExecution", f"{death} before the execution was finished; the context was restarted"
        )

    async def _run(self, execution: Execution):
        if not self._kernel.alive:  # it died between two cells
            await self.start()
        await self._prepare(execution)
        if not execution.abandoned.is_set():
            await self._execute(execution)
        await execution.finish()  # what follows is not the client's to wait for
        await self._run_silently(self._snippets.pop(execution.variables) if execution.variables else "")

    async def _execute(self, execution: Execution):
        """Runs the cell until it ends or nobody listens any more."""
        cell = asyncio.create_task(self._kernel.execute(execution.code, execution.emit))
        abandoned = asyncio.create_task(execution.abandoned.wait())
        try:
            await asyncio.wait({cell, abandoned}, return_when=asyncio.FIRST_COMPLETED)
            if not cell.done():
                await self._interrupt(cell)
            await cell
        finally:
            abandoned.cancel()
            cell.cancel()

    async def _prepare(self, execution: Execution):
        """Brings the kernel up to date with the sandbox this machine is now, and sets the cell's own variables."""
        identity = sandbox.identity()
        reseed = self._snippets.reseed() if identity != self._identity else ""
        set_variables = ""
        variables = await sandbox.environment(execution.access_token)
        if variables is not None and variables != self._variables:
            changed = {name: value for name, value in variables.items() if self._variables.get(name) != value}
            gone = [name for name in self._variables if name not in variables]
            # A variable the kernel was started with is not removed but gets its first value again.
            changed |= {name: os.environ[name] for name in gone if name in os.environ}
            set_variables = self._snippets.set(changed, [name for name in gone if name not in os.environ])
            self._variables = variables
        push = self._snippets.push(execution.variables) if execution.variables else ""
        await self._run_silently("\n".join(filter(None, [reseed, set_variables, push])))
        self._identity = identity

    async def _run_silently(self, code: str):
        if code:
            await self._kernel.run_silently(code)

    async def _interrupt(self, cell: asyncio.Task):
        for patience in INTERRUPT_PATIENCE:
            await self._kernel.interrupt()
            done, _ = await asyncio.wait({cell}, timeout=patience)
            if done:
                return
        await self._kernel.kill()


class Contexts:
    def __init__(self):
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[str, Context] = {}
        self._making_default = asyncio.Lock()
        self._preparation: asyncio.Task | None = None

    async def prepare(self):
        """Starts the default contexts. Returns when they are warm, unless this takes the place of another interpreter."""
        warm = os.path.exists(WARM_FILE)
        self._preparation = asyncio.create_task(self._start_defaults(not warm))
        if not warm:
            await self._preparation
            open(WARM_FILE, "w", encoding="utf-8").close()

    async def _start_defaults(self, warm_up: bool):
        for language in filter(None, DEFAULT_LANGUAGES):
            context = await self.default_for(language)
            if warm_up:
                await context.warm_up()

    def find(self, context_id: str) -> Context | None:
        return self._contexts.get(context_id)

    async def all(self) -> list[Context]:
        if self._preparation is not None:
            await asyncio.wait({self._preparation})
        return list(self._contexts.values())

    async def default_for(self, language: str) -> Context:
        if language not in self._defaults:
            async with self._making_default:
                if language not in self._defaults:
                    self._defaults[language] = await self.create(language, languages.HOME)
        return self._defaults[language]

    async def create(self, language: str, cwd: str) -> Context:
        context = Context(language, cwd)
        try:
            await context.start()
        except BaseException:
            await context.stop()
            raise
        self._contexts[context.id] = context
        return context

    async def restart(self, context: Context):
        await context.restart()

    async def remove(self, context: Context):
        self._contexts.pop(context.id, None)
        if self._defaults.get(context.language) is context:
            del self._defaults[context.language]
        await context.stop()

    async def close(self):
        if self._preparation is not None:
            self._preparation.cancel()
        contexts = await self.all()
        await asyncio.gather(*(context.stop() for context in contexts), return_exceptions=True)
