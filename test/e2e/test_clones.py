"""A clone is neither its template nor its sibling.

What a program drew from the kernel before the template was frozen is beyond anybody's reach: clones of a template in which
an interpreter runs share the state of that interpreter's own random generator.
"""

import json

import pytest
from conftest import ROOT, wait_until
from e2b import Sandbox

# No two clones may give the same answer.
DRAWN = ("head -c 16 /dev/urandom | od -An -tx1",
         "cat /proc/sys/kernel/random/uuid",
         "python3 -c 'import uuid; print(uuid.uuid4())'",
         "python3 -c 'import random; print(random.random())'",
         "python3 -c 'import secrets; print(secrets.token_hex())'",
         "node -p 'crypto.randomUUID()'",
         "python3 -c 'print(hash(str(1)))'",
         "mktemp -u",
         "hostname",
         "cat /etc/hostname",
         "cat /etc/machine-id",
         "cat /run/e2b/.E2B_SANDBOX_ID")

CLOCK_SERVER = """
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        answer = str(time.time_ns()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
http.server.HTTPServer(("127.0.0.1", 8123), Handler).serve_forever()
"""
TOLERANCE = 10  # milliseconds


@pytest.fixture(scope="module")
def pair(daemon):
    with Sandbox.create("base") as first, Sandbox.create("base") as second:
        yield first, second


@pytest.mark.parametrize("command", DRAWN)
def test_clones_draw_different_things(pair, command):
    first, second = (box.commands.run(command).stdout for box in pair)
    assert first and second and first != second


def test_a_clones_names_agree(sandbox):
    names = sandbox.commands.run("hostname; cat /etc/hostname; echo $E2B_SANDBOX_ID; getent hosts $(hostname) | awk '{print $2}'")
    assert names.stdout.split() == [sandbox.sandbox_id] * 4


def test_a_clone_that_only_waits_writes_nothing_to_its_disk(sandbox):
    written = "awk '{ print $7 }' /sys/block/vda/stat"  # sectors
    before, after = sandbox.commands.run(f"{written}; sync; {written}").stdout.split()
    assert before == after


def clock_difference(daemon, box):
    """By how many milliseconds the guest's clock is ahead of its host's: at least, at most."""
    box.files.write("clock_server.py", CLOCK_SERVER)
    box.commands.run("python3 clock_server.py", background=True, timeout=0)
    headers = [("E2b-Sandbox-Id", box.sandbox_id), ("E2b-Sandbox-Port", "8123")]
    wait_until(lambda: daemon.request("GET", "/", key=None, headers=headers)[0] == 200, "the clock answers")
    script = ROOT / "test/e2e/clock.py"
    least, most = daemon.host.shell(f"python3 {script} {daemon.host.api_port} {box.sandbox_id} 8123").split()
    return float(least), float(most)


def test_a_clones_clock_is_its_hosts(daemon, sandbox):
    least, most = clock_difference(daemon, sandbox)
    assert least <= TOLERANCE and most >= -TOLERANCE, f"ahead by {least} to {most} ms"
    assert most - least < 10 * TOLERANCE  # bounds far apart would let any clock pass


def test_sandboxes_of_a_moment_tell_what_their_use_needs(poolless):
    def told():
        lines = poolless.host.shell(f"grep 'a clone told what it needed' {poolless.host.run}/cubed.log || true").splitlines()
        return [(int(line["to_come_up"]), int(line["to_be_used"])) for line in map(json.loads, lines)]

    for _ in range(2):
        before = len(told())
        with Sandbox.create("base") as box:
            box.commands.run("git --version")
        wait_until(lambda: len(told()) == before + 2, "the sandbox has told both")
    to_come_up, to_be_used = told()[-1]
    assert to_come_up > 0 and to_be_used > 0
