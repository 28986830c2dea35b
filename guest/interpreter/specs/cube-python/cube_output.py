"""What a cell puts out faster than it is read: it waits, and the cell with it. Nothing is dropped, and no memory filled."""

import codecs
import fcntl
import os
import select
import struct
import termios
import threading

import zmq
from ipykernel.iostream import IOPubThread, OutStream

PIECE = 65536  # characters of one message, at most twice as many
MESSAGES = 16  # that wait for the reader
OUTPUTS = 64  # that wait for the thread which sends them


def socket(context):
    """The socket of what all cells put out."""
    publisher = context.socket(zmq.PUB)
    publisher.linger = 1000
    publisher.sndhwm = MESSAGES
    publisher.setsockopt(zmq.XPUB_NODROP, 1)
    return publisher


class Publisher(IOPubThread):
    """Sends; whoever gives it too much waits, but for its own thread."""

    def __init__(self, *arguments, **options):
        self._handled = threading.Condition()
        super().__init__(*arguments, **options)

    def schedule(self, f):
        if self.thread.is_alive() and threading.current_thread() is not self.thread:
            with self._handled:
                self._handled.wait_for(lambda: len(self._events) < OUTPUTS)
        super().schedule(f)

    def _handle_event(self, message):
        super()._handle_event(message)
        with self._handled:
            self._handled.notify_all()


class Stream(OutStream):
    """stdout or stderr. IPython's sends what there is every 0.2 s, however much; of what processes print it repeats all in
    the interpreter's log, loses what comes with the cell's end, and reads no more after half a character."""

    flush_timeout = None  # the reader takes the time it takes

    def __init__(self, *arguments, **options):
        self._unsent = 0
        self._read = self._passed = 0  # bytes processes printed
        self._passing = threading.Condition()
        super().__init__(*arguments, **options)

    def write(self, text):
        if len(text) < PIECE - self._unsent:
            self._unsent += len(text)
            return super().write(text)
        for begin in range(0, len(text), PIECE):
            super().write(text[begin : begin + PIECE])
            self._send()
        return len(text)

    def flush(self):
        if self.pub_thread and self.pub_thread.thread.is_alive():  # not after a fork
            with self._passing:
                waiting = struct.unpack("i", fcntl.ioctl(self._fid, termios.FIONREAD, b"\0" * 4))[0]
                printed = self._read + waiting
                self._passing.wait_for(lambda: self._passed >= printed)
        self._send()

    def _send(self):
        self._unsent = 0
        super().flush()

    def _watch_pipe_fd(self):
        """Passes on what processes print."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            select.select([self._fid], [], [])
            with self._passing:
                data = os.read(self._fid, PIECE)
                self._read += len(data)
            if not data:
                return
            self.write(decoder.decode(data))
            with self._passing:
                self._passed = self._read
                self._passing.notify_all()
