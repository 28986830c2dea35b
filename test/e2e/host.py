"""Runs shell commands on the host that cubed runs on, for the e2e suite: in the KVM lab, or on this machine.

usage: host.py PORT. POST / with a bash command line answers {"status": n, "output": "..."}; loopback only.
GET / answers {"stalled": seconds}: how long in all this process, which only sleeps, was not run when it should have been.
"""

import http.server
import json
import subprocess
import sys
import threading
import time

HEARTBEAT, TOLERANCE = 0.5, 10.0  # seconds; a busy emulated processor may be late, but not by that much
stalled = 0.0


def watch():
    global stalled
    last = time.monotonic()
    while True:
        time.sleep(HEARTBEAT)
        now = time.monotonic()
        if now - last > TOLERANCE:
            stalled += now - last
        last = now


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        command = self.rfile.read(int(self.headers["Content-Length"])).decode()
        done = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        self.answer({"status": done.returncode, "output": done.stdout.decode(errors="replace")})

    def do_GET(self):
        self.answer({"stalled": stalled})

    def answer(self, content):
        answer = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


threading.Thread(target=watch, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
