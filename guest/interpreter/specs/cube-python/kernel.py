"""IPython's kernel, set up for output that programs read."""

import ctypes
import logging
import os
import signal
import sys

# The debugger nobody can attach to would cost every kernel its memory.
sys.modules["debugpy"] = None
from ipykernel.kernelapp import IPKernelApp  # noqa: E402

del sys.modules["debugpy"]

import cube_display  # noqa: E402
import cube_output  # noqa: E402
import cube_session  # noqa: E402,F401 found in sys.modules by the snippets of languages.py


PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def die_with(parent: int):
    """Has the kernel end when the interpreter is killed, whatever the cell is doing. IPython's own watch cannot while a
    cell computes in C."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the interpreter is gone")


class Application(IPKernelApp):
    outstream_class = "cube_output.Stream"

    def init_iopub(self, context):
        self.iopub_socket = cube_output.socket(context)
        self.iopub_port = self._bind_socket(self.iopub_socket, self.iopub_port)
        self.iopub_thread = cube_output.Publisher(self.iopub_socket, pipe=True)
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket


if __name__ == "__main__":
    die_with(int(os.environ["JPY_PARENT_PID"]))  # set by jupyter_client
    # The cells import from their own directory first; ours stays reachable for cube_charts, imported when needed.
    sys.path.append(sys.path[0])
    sys.path[0] = ""
    application = Application.instance()
    application.log_level = logging.ERROR
    application.config.InteractiveShell.colors = "NoColor"
    application.config.PlainTextFormatter.max_seq_length = 0
    application.config.HistoryManager.hist_file = ":memory:"
    application.initialize()
    cube_display.install(application.shell)
    application.start()
