"""What runs the cells of a context. A kernel has:

alive                        whether its process runs
await start(cwd)             starts it, or starts it anew
await execute(code, emit)    runs a cell, awaiting emit(event) for each event; raises KernelDied
await run_silently(code)     runs what the user shall not see
await interrupt()            ends the running cell with an error
await kill(), await stop()   ends the process; the latter for good
"""

from .base import RUNTIME_DIRECTORY, KernelDied, UnknownLanguage
from .bash import BashKernel
from .java import JavaKernel
from .javascript import JavaScriptKernel
from .jupyter import JupyterKernel

__all__ = ["RUNTIME_DIRECTORY", "KernelDied", "UnknownLanguage", "make_kernel"]


def make_kernel(language: str):
    if language == "bash" and BashKernel.installed():
        return BashKernel()
    if language in ("javascript", "typescript") and JavaScriptKernel.installed(language):
        return JavaScriptKernel(language)
    if language == "java" and JavaKernel.installed():
        return JavaKernel()
    return JupyterKernel(language)
