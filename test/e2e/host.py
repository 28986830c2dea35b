"""Runs shell commands on the host that cubed runs on, for the e2e suite: in the KVM lab, or on this machine.

usage: host.py PORT. POST / with a bash command line answers {"status": n, "output": "..."}; loopback only.
"""

import http.server
import json
import subprocess
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        command = self.rfile.read(int(self.headers["Content-Length"])).decode()
        done = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        answer = json.dumps({"status": done.returncode, "output": done.stdout.decode(errors="replace")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
