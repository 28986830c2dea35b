"""What all kernels share."""

import asyncio
import os
import select
import signal
import tempfile

# Connection files and sockets of the kernels, cells of the shell: readable by the interpreter's user only.
RUNTIME_DIRECTORY = tempfile.mkdtemp(prefix="kernels-", dir=os.environ.get("CUBE_RUNTIME_DIRECTORY"))

START_SECONDS = 240  # until a kernel answers: on a slow and busy machine that takes minutes


class UnknownLanguage(Exception):
    pass


class KernelDied(Exception):
    pass


class KernelSilent(Exception):
    pass


async def answer_of_new_kernel(work):
    """The result of an awaitable; an error that says so when it takes too long."""
    try:
        return await asyncio.wait_for(work, START_SECONDS)
    except asyncio.TimeoutError as error:
        raise KernelSilent(f"The kernel did not answer within {START_SECONDS} s of its start") from error


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


class Process:
    """A kernel's process, leader of its own session: everything it starts can be ended with it."""

    def __init__(self, pid: int):
        self.pid = pid
        self.ended = asyncio.get_running_loop().create_future()
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)

    def _on_end(self):
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.ended.set_result(None)

    @property
    def alive(self) -> bool:
        if self.ended.done():
            return False
        # The loop may not have got round to telling.
        return not _is_readable(self._pidfd)

    async def kill(self):
        if not self.ended.done():
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            await asyncio.shield(self.ended)

    async def or_death(self, work):
        """The result of an awaitable; KernelDied when the process ends first."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self.ended}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                # What the process wrote last may not have been read yet.
                await asyncio.wait({task}, timeout=0.2)
            if not task.done():
                raise KernelDied("The kernel ended")
            return task.result()
        except (EOFError, OSError) as error:  # its end of a pipe is closed
            await self.kill()
            raise KernelDied("The kernel ended") from error
        finally:
            task.cancel()
