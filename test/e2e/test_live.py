"""What happens to sandboxes while they live: pause and resume, snapshots, forks, rollback."""

import json
import time

import pytest
from conftest import ROOT, wait_until
from e2b import Sandbox, SandboxException, SandboxNotFoundException, SandboxState

COUNTER = "python3 -c 'import time\nn = 0\nwhile True:\n  n += 1; open(\"/tmp/count\", \"w\").write(str(n)); time.sleep(0.1)'"


def boot_id(box):
    return box.files.read("/proc/sys/kernel/random/boot_id")


def start_counter(box):
    """A process whose memory matters: it goes on counting where it was."""
    return box.commands.run(COUNTER, background=True, timeout=0).pid


def count(box):
    return wait_until(lambda: (text := box.commands.run("cat /tmp/count || true").stdout) and int(text), "it counts")


def rollback(daemon, box, snapshot):
    return daemon.request("POST", f"/sandboxes/{box.sandbox_id}/rollback", {"snapshotID": snapshot})


def test_a_paused_sandbox_comes_back_as_it_was(sandbox):
    sandbox.files.write("kept", "on disk")
    pid, before, boot = start_counter(sandbox), count(sandbox), boot_id(sandbox)
    assert sandbox.pause()
    assert not sandbox.is_running()
    assert sandbox.get_info().state == SandboxState.PAUSED
    assert not sandbox.pause()  # it is paused already
    again = sandbox.connect()
    assert again.sandbox_id == sandbox.sandbox_id and again.is_running()
    assert sandbox.get_info().state == SandboxState.RUNNING
    assert boot_id(again) == boot and again.files.read("kept") == "on disk"
    assert pid in [process.pid for process in again.commands.list()]
    after = count(again)
    assert before <= after < before + 600
    wait_until(lambda: count(again) > after, "the process goes on")


def test_ten_pauses_lose_no_file_and_no_process(sandbox):
    pid = start_counter(sandbox)
    for cycle in range(10):
        sandbox.files.write(f"file{cycle}", str(cycle))
        sandbox.pause()
        sandbox.connect(timeout=600)
        assert [sandbox.files.read(f"file{each}") for each in range(cycle + 1)] == [str(each) for each in range(cycle + 1)]
        assert pid in [process.pid for process in sandbox.commands.list()]
        drift = float(sandbox.commands.run("date +%s.%N").stdout) - time.time()
        assert abs(drift) < 30  # this machine's clock is not the lab's, but a guest that slept would be off for longer


def test_a_connection_under_tls_and_its_timers_survive(daemon, sandbox):
    sandbox.files.write("tls_pair.py", (ROOT / "test/e2e/tls_pair.py").read_text())
    pid = sandbox.commands.run("exec python3 tls_pair.py", background=True, timeout=0).pid

    def goes_on(box):
        def seen():
            return int(box.commands.run("cat /tmp/tls-count || echo 0").stdout)
        before = seen()
        wait_until(lambda: seen() > before + 5, "the pair counts")
        assert pid in [process.pid for process in box.commands.list()]
        return before

    goes_on(sandbox)
    sandbox.pause()
    assert goes_on(sandbox.connect(timeout=600)) > 5
    snapshot = sandbox.create_snapshot()
    goes_on(sandbox)
    fork = sandbox.fork()[0]
    with fork:
        assert goes_on(fork) > 10
    assert rollback(daemon, sandbox, snapshot.snapshot_id)[0] == 200
    assert goes_on(sandbox) > 5
    Sandbox.delete_snapshot(snapshot.snapshot_id)


def test_a_pause_without_memory_boots(sandbox):
    sandbox.files.write("kept", "on disk")
    boot = boot_id(sandbox)
    assert sandbox.pause(keep_memory=False)
    assert not sandbox.is_running()
    again = sandbox.connect()
    assert again.files.read("kept") == "on disk" and boot_id(again) != boot
    # What was booted can be captured like any other.
    assert again.pause()
    booted = boot_id(again.connect())
    assert booted != boot and boot_id(again) == booted


def test_snapshots(daemon, sandbox):
    sandbox.files.write("state", "first")
    pid = start_counter(sandbox)
    first = sandbox.create_snapshot(name="snap-first")
    sandbox.files.write("state", "second")
    second = sandbox.create_snapshot()
    sandbox.files.write("state", "third")
    try:
        assert [item.snapshot_id for item in Sandbox.list_snapshots(sandbox_id=sandbox.sandbox_id).next_items()] == [
            second.snapshot_id, first.snapshot_id]
        assert [item.snapshot_id for item in Sandbox.list_snapshots(name="snap-first").next_items()] == [first.snapshot_id]
        for reference, content in ((first.snapshot_id, "first"), ("snap-first", "first"), (second.snapshot_id, "second"),
                                   (second.snapshot_id.split(":")[0], "second")):
            with Sandbox.create(reference) as box:
                assert box.files.read("state") == content
                assert pid in [process.pid for process in box.commands.list()]
                assert box.commands.run("hostname").stdout == f"{box.sandbox_id}\n"
        assert sandbox.files.read("state") == "third"
    finally:
        assert Sandbox.delete_snapshot(first.snapshot_id) is True
        assert Sandbox.delete_snapshot(second.snapshot_id) is True
    assert Sandbox.delete_snapshot(first.snapshot_id) is False
    status, body = daemon.request("POST", "/v2/sandboxes", {"templateID": first.snapshot_id})
    assert status == 404 and json.loads(body)["code"] == 404


def test_a_snapshot_of_the_file_systems_alone(sandbox):
    sandbox.files.write("kept", "on disk")
    boot = boot_id(sandbox)
    snapshot = sandbox.create_snapshot(mode="filesystem")
    try:
        with Sandbox.create(snapshot.snapshot_id) as box:
            assert box.files.read("kept") == "on disk" and boot_id(box) != boot
    finally:
        Sandbox.delete_snapshot(snapshot.snapshot_id)
    assert boot_id(sandbox) == boot


def test_forks_share_the_past_and_nothing_else(sandbox):
    sandbox.files.write("state", "before")
    pid = start_counter(sandbox)
    forks = sandbox.fork(count=6)  # from the fourth on they share what was captured in small runs
    try:
        assert all(isinstance(fork, Sandbox) for fork in forks), forks
        everybody = [sandbox, *forks]
        assert len({box.sandbox_id for box in everybody}) == len(everybody)
        for number, box in enumerate(everybody):
            assert box.files.read("state") == "before"
            assert pid in [process.pid for process in box.commands.list()]
            box.files.write("state", str(number))
        assert [box.files.read("state") for box in everybody] == [str(i) for i in range(len(everybody))]
        for command in ("head -c 16 /dev/urandom | od -An -tx1", "hostname", "cat /etc/machine-id"):
            assert len({box.commands.run(command).stdout for box in everybody}) == len(everybody), command
        grandchild = forks[0].fork()[0]
        with grandchild:
            assert grandchild.files.read("state") == "1"
    finally:
        for fork in forks:
            fork.kill()
    assert sandbox.files.read("state") == "0"


def test_rollback(daemon, sandbox):
    pid = start_counter(sandbox)
    sandbox.files.write("state", "first")
    first = sandbox.create_snapshot()
    sandbox.files.write("state", "second")
    sandbox.commands.kill(pid)
    second = sandbox.create_snapshot()
    try:
        for snapshot, content, alive in ((first, "first", True), (second, "second", False), (first, "first", True)):
            status, body = rollback(daemon, sandbox, snapshot.snapshot_id)
            assert status == 200 and json.loads(body)["sandboxID"] == sandbox.sandbox_id, body
            assert sandbox.files.read("state") == content
            assert (pid in [process.pid for process in sandbox.commands.list()]) == alive
        with Sandbox.create("base") as other:
            assert rollback(daemon, other, first.snapshot_id)[0] == 400  # not its own
            assert rollback(daemon, other, "nothing")[0] == 400
        with Sandbox.create(first.snapshot_id) as child:
            child.files.write("state", "of the child")
            assert rollback(daemon, child, first.snapshot_id)[0] == 200  # what it descends from
            assert child.files.read("state") == "first"
            assert rollback(daemon, child, second.snapshot_id)[0] == 400  # its sibling's
    finally:
        for snapshot in (first, second):
            Sandbox.delete_snapshot(snapshot.snapshot_id)


def test_many_snapshots_are_merged_behind_the_sandbox(daemon, sandbox):
    taken = []
    for number in range(8):
        sandbox.files.write(f"file{number}", str(number))
        taken.append(sandbox.create_snapshot())
    try:
        def deepest():
            return max(int(line) for line in daemon.host.shell(
                f"for c in {daemon.host.state}/checkpoints/*/; do ls $c | grep -c '^memory\\.'; done").split())
        wait_until(lambda: deepest() <= 7, "the deepest chain was merged")
        for number, snapshot in ((0, taken[0]), (7, taken[7])):
            with Sandbox.create(snapshot.snapshot_id) as box:
                assert {f"file{each}" for each in range(number + 1)} <= {item.name for item in box.files.list(".")}
    finally:
        for snapshot in taken:
            Sandbox.delete_snapshot(snapshot.snapshot_id)


def test_it_pauses_at_its_deadline_and_resumes_for_traffic(daemon):
    box = Sandbox.create("base", timeout=60, lifecycle={"on_timeout": "pause", "auto_resume": True})
    try:
        box.files.write("state", "kept")
        box.set_timeout(0)
        wait_until(lambda: box.get_info().state == SandboxState.PAUSED, "it is paused")
        assert box.files.read("state") == "kept"  # traffic
        info = box.get_info()
        assert info.state == SandboxState.RUNNING
        assert (info.end_at.timestamp() - time.time()) > 200  # traffic buys it five minutes
        box.set_timeout(1)
        wait_until(lambda: box.get_info().state == SandboxState.PAUSED, "it is paused again: that is remembered")
    finally:
        assert box.kill() is True
    assert box.kill() is False


def test_without_auto_resume_traffic_finds_nothing(daemon):
    box = Sandbox.create("base", timeout=60, lifecycle={"on_timeout": "pause"})
    try:
        box.set_timeout(1)
        wait_until(lambda: box.get_info().state == SandboxState.PAUSED, "it is paused")
        assert not box.is_running()
        headers = [("E2b-Sandbox-Id", box.sandbox_id), ("E2b-Sandbox-Port", "49983")]
        status, body = daemon.request("GET", "/health", key=None, headers=headers)
        assert status == 502 and b"was not found" in body
    finally:
        box.kill()


def test_what_cannot_be_done_says_so(daemon, sandbox):
    url = f"/sandboxes/{sandbox.sandbox_id}"
    sandbox.pause()
    for path, body in (("/pause", None), ("/fork", {"count": 1}), ("/rollback", {"snapshotID": "x"})):
        status, answer = daemon.request("POST", url + path, body)
        assert status == 409 and json.loads(answer)["code"] == 409, (path, answer)
    sandbox.connect()
    assert daemon.request("POST", url + "/resume", None)[0] == 409
    for path, body in (("/fork", {"count": 0}), ("/fork", {"count": 101}), ("/snapshots", {"name": "../x"}),
                       ("/rollback", {}), ("/pause", {"nonsense": True}), ("/pause", b"{")):
        assert daemon.request("POST", url + path, body)[0] == 400, (path, body)
    assert daemon.request("POST", url + "/snapshots", {"name": "base"})[0] == 409  # a template's
    for path in ("/pause", "/resume", "/fork", "/snapshots"):
        assert daemon.request("POST", "/sandboxes/i00000000000000000000" + path, None)[0] == 404
