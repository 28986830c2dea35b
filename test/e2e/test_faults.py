"""The daemon is killed at every step of what it writes, files are damaged under it, the disk is full: what was
acknowledged stays, what was not is cleaned up, and nobody else notices. These restart the daemon."""

import concurrent.futures
import json
import shlex
import threading
import time

import pytest
from conftest import LONG, wait_until
from e2b import Sandbox, SandboxState

# What makes something durable or visible; pausing and checkpoints are sequences of these.
STEPS = "fsync,fdatasync,linkat,renameat2,mkdir,mkdirat,unlink,unlinkat,fchmod"


class KilledAt:
    """Sends SIGKILL to the daemon when it enters its n-th call that is a step, counted over all threads."""

    def __init__(self, daemon, number):
        self.daemon, self.marker = daemon, f"{daemon.host.state}.strace"
        daemon.host.shell(f"rm -f {self.marker}; setsid strace -f -qq -o {self.marker} -e trace={STEPS} -p {daemon.pid} "
                          f"-e inject={STEPS}:signal=KILL:when={number} < /dev/null > /dev/null 2>&1 &")
        wait_until(self.attached, "strace is attached to every thread")

    def attached(self):
        traced = self.daemon.host.shell(f"grep -h TracerPid /proc/{self.daemon.pid}/task/*/status | sort -u")
        return "TracerPid:\t0" not in traced.splitlines()

    def survived(self):
        """Whether the daemon got through; one that was hit may take a moment to be gone."""
        self.daemon.host.shell("pkill -INT -x strace; while pgrep -x strace > /dev/null; do sleep 0.05; done", check=False)
        return wait_until(lambda: "no" if self.gone() else "yes" if self.daemon.healthy() else None,
                          "it answers or is gone") == "yes"

    def gone(self):
        return self.daemon.host.shell(f"grep -q '^State:[[:space:]]*[RSDTt]' /proc/{self.daemon.pid}/status 2>/dev/null "
                                      "|| echo gone") == "gone\n"


def state_of(daemon, box):
    status, body = daemon.request("GET", f"/sandboxes/{box.sandbox_id}")
    return json.loads(body)["state"] if status == 200 else None


def post(daemon, path, body=None):
    """The status, or nothing if the daemon died first."""
    try:
        return daemon.request("POST", path, body)[0]
    except OSError:
        return None


@pytest.fixture
def witness(daemon):
    """A paused sandbox and a checkpoint that whatever happens must leave alone."""
    box = Sandbox.create("base", timeout=LONG)
    box.files.write("witness", "still here")
    snapshot = box.create_snapshot()
    box.pause()
    yield box, snapshot
    try:
        with Sandbox.create(snapshot.snapshot_id) as copy:
            assert copy.files.read("witness") == "still here"
        box.connect(timeout=600)
        assert box.files.read("witness") == "still here"
    finally:
        box.kill()
        Sandbox.delete_snapshot(snapshot.snapshot_id)


def sweep(daemon, prepare, operate, check):
    """Kills the daemon at the first, second, ... step of an operation until the operation gets through."""
    for number in range(1, 100):
        box = prepare()
        killer = KilledAt(daemon, number)
        status = operate(box)
        survived = killer.survived()
        if not survived:
            daemon.start()
        check(box, status)
        post(daemon, f"/sandboxes/{box.sandbox_id}/timeout", {"timeout": 0})
        if survived:
            assert number > 3, "no step was ever reached"
            return
    raise AssertionError("it never got through")


def prepared(daemon):
    box = Sandbox.create("base", timeout=LONG)
    box.files.write("state", "written")
    return box


def test_killed_at_every_step_of_a_pause(daemon, witness):
    def check(box, status):
        state = state_of(daemon, box)
        assert state == "paused" if status == 204 else state in (None, "paused")
        if state == "paused":
            assert box.connect(timeout=600).files.read("state") == "written"

    sweep(daemon, lambda: prepared(daemon), lambda box: post(daemon, f"/sandboxes/{box.sandbox_id}/pause"), check)
    assert daemon.host.shell(f"ls -A {daemon.host.state}/paused | wc -l").strip() == "1"  # the witness


def test_killed_at_every_step_of_a_resume(daemon, witness):
    def prepare():
        box = prepared(daemon)
        box.pause()
        return box

    def check(box, status):
        state = state_of(daemon, box)
        assert state in (None, "paused", "running")
        if status == 201:
            assert state in (None, "running")  # a running sandbox does not outlive its daemon
        if state:
            assert box.connect(timeout=600).files.read("state") == "written"

    sweep(daemon, prepare, lambda box: post(daemon, f"/v2/sandboxes/{box.sandbox_id}/connect", {"timeout": 600}), check)
    wait_until(lambda: daemon.host.shell(f"ls -A {daemon.host.state}/paused | wc -l").strip() == "1", "only the witness is left")


def test_killed_at_every_step_of_a_checkpoint(daemon, witness):
    def check(box, status):
        listed = json.loads(daemon.request("GET", f"/snapshots?sandboxID={box.sandbox_id}")[1])
        assert len(listed) == 1 if status == 201 else len(listed) <= 1
        for item in listed:
            with Sandbox.create(item["snapshotID"]) as copy:
                assert copy.files.read("state") == "written"
            Sandbox.delete_snapshot(item["snapshotID"])

    sweep(daemon, lambda: prepared(daemon), lambda box: post(daemon, f"/sandboxes/{box.sandbox_id}/snapshots", {}), check)
    assert daemon.host.shell(f"ls -A {daemon.host.state}/checkpoints | wc -l").strip() == "1"


@pytest.mark.parametrize("path, body", [("/fork", {"count": 2}), ("/rollback", "the witness's checkpoint")])
def test_killed_in_the_middle(daemon, witness, path, body):
    for delay in (0.02, 0.1, 0.3):
        box = Sandbox.create(witness[1].snapshot_id, timeout=LONG)
        content = {"snapshotID": witness[1].snapshot_id} if path == "/rollback" else body
        request = threading.Thread(target=post, args=(daemon, f"/sandboxes/{box.sandbox_id}{path}", content))
        request.start()
        time.sleep(delay)  # not a condition: the point is to be early, in the middle, and late
        daemon.signal("KILL")
        request.join()
        daemon.start()
        listed = json.loads(daemon.request("GET", "/v2/sandboxes")[1])
        assert [item["sandboxID"] for item in listed] == [witness[0].sandbox_id]


def test_a_full_disk_stops_a_pause_and_not_the_sandbox(daemon, sandbox):
    sandbox.commands.run("yes | head -c 64M > /dev/shm/dirty; sync")
    free = int(daemon.host.shell(f"stat -f -c '%f * %S / 1048576' {daemon.host.state} | xargs -I{{}} sh -c 'echo $(({{}}))'"))
    before = daemon.host.shell(f"find {daemon.host.state}/paused {daemon.host.state}/checkpoints | sort")
    daemon.host.shell(f"fallocate -l {free - 16}M {daemon.host.state}/../filler")
    try:
        for path in ("/pause", "/snapshots"):
            status, body = daemon.request("POST", f"/sandboxes/{sandbox.sandbox_id}{path}", {})
            assert status == 503 and "No space left" in json.loads(body)["message"], body
            assert sandbox.commands.run("echo alive").stdout == "alive\n"
    finally:
        daemon.host.shell(f"rm {daemon.host.state}/../filler")
    assert daemon.host.shell(f"find {daemon.host.state}/paused {daemon.host.state}/checkpoints | sort") == before
    assert sandbox.pause() and sandbox.connect().commands.run("wc -c < /dev/shm/dirty").stdout == "67108864\n"


# One bit of the file's data, behind the header page where there is one.
FLIP = """import os, sys
f = os.open(sys.argv[1], os.O_RDWR)
start = 8192 if os.fstat(f).st_size > 16384 else 0
at = os.lseek(f, start, os.SEEK_DATA) + 99
os.pwrite(f, bytes([os.pread(f, 1, at)[0] ^ 4]), at)"""


def damage(daemon, path, how):
    size = int(daemon.host.shell(f"stat -c %s {path}"))
    daemon.host.shell({"cut": f"truncate -s {size // 2 // 4096 * 4096} {path}", "missing": f"rm {path}",
                       "flipped": f"python3 -c {shlex.quote(FLIP)} {path}"}[how])


@pytest.mark.parametrize("file", ["memory.1", "state", "snapshot.json"])
@pytest.mark.parametrize("how", ["cut", "flipped", "missing"])
def test_a_damaged_paused_sandbox_fails_alone(daemon, file, how):
    boxes = [Sandbox.create("base", timeout=LONG) for _ in range(2)]
    for box in boxes:
        box.files.write("state", "written")
        box.pause()
    daemon.signal("KILL")
    damage(daemon, f"{daemon.host.state}/paused/{boxes[0].sandbox_id}/{file}", how)
    daemon.start()
    status, body = daemon.request("POST", f"/v2/sandboxes/{boxes[0].sandbox_id}/connect", {})
    assert status == 500 and file in json.loads(body)["message"], body
    assert boxes[1].connect().files.read("state") == "written"
    assert boxes[0].kill() and boxes[1].kill()
    assert daemon.host.shell(f"ls -A {daemon.host.state}/paused") == ""


def test_a_template_cut_off_under_its_clones_ends_only_them(daemon):
    daemon.cubectl("template", "build", "doomed", "--image", "base.ext4")
    other = Sandbox.create("base")
    victims = [Sandbox.create("doomed") for _ in range(2)]
    template = next(line for line in daemon.cubectl("template", "list").stdout.splitlines() if " doomed " in line).split()[0]
    # What a clone has read or written is its own or cached; half of the image is not.
    daemon.host.shell(f"truncate -s 0 {daemon.host.state}/templates/{template}/memory")
    for box in victims:
        try:
            box.commands.run("cat /proc/*/maps /usr/bin/* > /dev/null", timeout=60)
        except Exception:  # the guest is ending
            pass
        wait_until(lambda: state_of(daemon, box) is None, "the clone has ended")
    assert other.commands.run("echo alive").stdout == "alive\n"
    other.kill()
    assert "its memory image is damaged" in daemon.host.shell(f"grep 'the guest stopped' {daemon.host.run}/cubed.log | tail -n 2")
    daemon.cubectl("template", "delete", "doomed")
    # Again, found before anything runs on it.
    daemon.cubectl("template", "build", "doomed", "--image", "base.ext4")
    template = next(line for line in daemon.cubectl("template", "list").stdout.splitlines() if " doomed " in line).split()[0]
    daemon.signal("TERM")
    damage(daemon, f"{daemon.host.state}/templates/{template}/memory", "flipped")
    daemon.start()
    status, body = daemon.request("POST", "/v2/sandboxes", {"templateID": "doomed"})
    assert status == 500 and "memory" in json.loads(body)["message"] and "checksum" in json.loads(body)["message"], body
    with Sandbox.create("base") as box:
        assert box.commands.run("echo alive").stdout == "alive\n"
    daemon.cubectl("template", "delete", "doomed")


def test_a_template_deleted_under_its_clones(daemon):
    daemon.cubectl("template", "build", "passing", "--image", "base.ext4")
    box = Sandbox.create("passing", timeout=LONG)
    box.files.write("state", "written")
    daemon.cubectl("template", "delete", "passing")
    assert box.files.read("state") == "written"
    snapshot = box.create_snapshot()
    assert box.pause() and box.connect(timeout=600).files.read("state") == "written"
    assert box.pause()
    daemon.signal("KILL")
    daemon.start()
    assert box.connect(timeout=600).files.read("state") == "written"
    with Sandbox.create(snapshot.snapshot_id) as copy:
        assert copy.files.read("state") == "written"
    box.kill()
    Sandbox.delete_snapshot(snapshot.snapshot_id)


def test_forking_while_forking(daemon, sandbox):
    sandbox.files.write("state", "shared")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        forks = [fork for forked in pool.map(lambda _: sandbox.fork(count=2), range(4)) for fork in forked]
    assert len({fork.sandbox_id for fork in forks}) == 8
    for fork in forks:
        assert fork.files.read("state") == "shared"
        fork.kill()
    assert sandbox.files.read("state") == "shared"


def test_killed_while_it_pauses_and_resumes(daemon):
    """Whatever the order in which they arrive: afterwards the sandbox is gone, with everything it had."""
    for delay in (0, 0.02, 0.1, 0.2):
        for first in ("/pause", "/connect"):
            box = Sandbox.create("base", timeout=LONG)
            if first == "/connect":
                box.pause()
            path = f"/sandboxes/{box.sandbox_id}{first}"
            thread = threading.Thread(target=post, args=(daemon, path, {}))
            thread.start()
            time.sleep(delay)  # not a condition: every order is to be tried
            assert daemon.request("DELETE", f"/sandboxes/{box.sandbox_id}")[0] == 204
            thread.join()
            assert state_of(daemon, box) is None
    wait_until(lambda: daemon.host.shell(f"ls -A {daemon.host.state}/paused") == "", "nothing is left of them")


def test_memory_that_a_guest_frees_goes_back_to_the_host(daemon):
    def resident():
        processes = " ".join(f"/proc/{machine}/smaps" for machine in daemon.machines())
        return int(daemon.host.shell(f"awk '/^Private_Dirty/ {{ sum += $2 }} END {{ print sum }}' {processes}"))

    with Sandbox.create("base") as box:
        before = resident()
        box.commands.run("yes | head -c 200M > /dev/shm/large")
        full = resident()
        assert full - before > 190 << 10
        box.commands.run("rm /dev/shm/large")
        # Most of it: some stays in the kernel's lists and caches, and the pool of the daemon may have grown.
        wait_until(lambda: full - resident() > 150 << 10, "the host has its memory again")


def test_a_machine_whose_process_is_killed_takes_no_other_with_it(poolless):
    daemon = poolless
    with Sandbox.create("base") as bystander:
        others = daemon.machines()
        victim = Sandbox.create("base")
        process, = set(daemon.machines()) - set(others)
        daemon.host.shell(f"kill -KILL {process}")  # as the kernel does to what uses too much memory
        wait_until(lambda: state_of(daemon, victim) is None, "the sandbox is gone")
        assert bystander.commands.run("echo alive").stdout == "alive\n"
        assert daemon.healthy()


def test_no_machine_outlives_a_daemon_that_is_killed(poolless):
    daemon = poolless
    for _ in range(3):
        Sandbox.create("base")
    machines = daemon.machines()
    assert len(machines) == 3
    daemon.signal("KILL")
    wait_until(lambda: daemon.host.shell(f"ls -d {' '.join(f'/proc/{machine}' for machine in machines)} 2>/dev/null", check=False) == "",
               "every machine has ended")
    daemon.start()
