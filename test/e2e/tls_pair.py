"""Runs in a guest: two processes on one TLS 1.3 connection, which count together as long as it holds.

Each round waits for a timer of the kernel (timerfd) and goes through the connection once in each direction; the count is in
/tmp/tls-count. Ends with an error when the connection does.
"""

import ctypes
import os
import socket
import ssl
import struct
import subprocess
import sys

CERTIFICATE, KEY = "/tmp/tls-certificate", "/tmp/tls-key"
TICK_NS = 50_000_000


def ticks():
    """A timer of CLOCK_MONOTONIC; each read waits for its next expiry."""
    libc = ctypes.CDLL(None, use_errno=True)
    timer = libc.timerfd_create(1, 0)
    every = struct.pack("qqqq", 0, TICK_NS, 0, TICK_NS)
    if timer < 0 or libc.timerfd_settime(timer, 0, every, None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    while True:
        yield struct.unpack("Q", os.read(timer, 8))[0]


def serve(listener):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    with context.wrap_socket(listener.accept()[0], server_side=True) as link:
        while number := link.recv(8):
            link.sendall(struct.pack("Q", struct.unpack("Q", number)[0] + 1))


def count(port):
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="pair") as link:
        number = 0
        for _ in ticks():
            link.sendall(struct.pack("Q", number))
            (answer,) = struct.unpack("Q", link.recv(8))
            if answer != number + 1:
                sys.exit(f"{answer} came after {number}")
            number = answer
            with open("/tmp/tls-count.new", "w") as file:
                file.write(str(number))
            os.replace("/tmp/tls-count.new", "/tmp/tls-count")


subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                "/CN=pair", "-addext", "subjectAltName=DNS:pair", "-keyout", KEY, "-out", CERTIFICATE],
               check=True, stderr=subprocess.DEVNULL)
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
if os.fork() == 0:
    serve(listener)
else:
    listener.close()
    count(port)
