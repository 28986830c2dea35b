"""Crashes and full disks. These restart the daemon."""

import json
import threading
import time

import pytest
from conftest import BUILD, KEY, wait_until
from e2b import Sandbox, SandboxNotFoundException


def test_clean_shutdown_and_start(daemon):
    box = Sandbox.create("base")
    daemon.signal("TERM")
    daemon.start()
    with pytest.raises(SandboxNotFoundException):
        box.get_info()
    with Sandbox.create("base") as again:
        assert again.commands.run("echo back").stdout == "back\n"


def test_killed_while_sandboxes_run(daemon):
    daemon.signal("TERM")
    daemon.start()
    files = daemon.footprint()["files"]
    boxes = [Sandbox.create("base") for _ in range(3)]
    daemon.signal("KILL")
    daemon.start()
    assert json.loads(daemon.request("GET", "/v2/sandboxes")[1]) == []
    for box in boxes:
        assert daemon.request("GET", f"/sandboxes/{box.sandbox_id}")[0] == 404
    assert daemon.footprint()["files"] == files
    lost = daemon.host.shell(f"grep 'sandbox was lost' {daemon.host.run}/cubed.log")
    assert all(box.sandbox_id in lost for box in boxes)
    with Sandbox.create("base") as again:
        assert again.commands.run("echo back").stdout == "back\n"


def test_killed_in_the_middle_of_a_template_build(daemon):
    files = daemon.footprint()["files"]
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(daemon.cubectl("template", "build", "half", "--image",
                                                                           "base.ext4", check=False)))
    thread.start()
    deadline = time.monotonic() + 60
    while ".tmp-" not in daemon.host.shell(f"ls -a {daemon.host.state}/templates"):
        assert time.monotonic() < deadline
    daemon.signal("KILL")
    thread.join()
    assert outcome[0].returncode == 1
    daemon.start()
    assert "half" not in daemon.cubectl("template", "list").stdout
    assert daemon.footprint()["files"] == files
    with Sandbox.create("base") as again:
        assert again.commands.run("echo back").stdout == "back\n"


def test_two_daemons_do_not_share_a_state_directory(daemon):
    command = " ".join(daemon.command).replace(f":{daemon.host.api_port}", ":0")
    output = daemon.host.shell(f"timeout 20 {command} 2>&1 || true")
    assert "another cubed uses this state directory" in output


@pytest.mark.parametrize(
    "options, reason",
    [
        ("--kvm-device /dev/null", "not a KVM device"),
        ("--kvm-device /dev/nothing", "/dev/nothing"),
        ("--kernel /nowhere", "cannot read the guest kernel"),
        ("--listen nonsense", "not ADDRESS:PORT"),
        ("--listen 0.0.0.0:0 --no-auth", "loopback"),
        ("--state-dir /proc/nowhere", "/proc/nowhere"),
        ("--frobnicate", "--frobnicate"),
    ],
)
def test_start_is_refused_with_a_reason(daemon, options, reason):
    base = " ".join(daemon.command).replace(f":{daemon.host.api_port}", ":0").replace(daemon.host.state, "/tmp/other")
    output = daemon.host.shell(f"timeout 20 {base} {options} 2>&1; echo status $?")
    assert reason in output and "status 0" not in output and "status 124" not in output


def test_a_taken_port_and_another_version(daemon):
    base = " ".join(daemon.command).replace(daemon.host.state, "/tmp/other")
    output = daemon.host.shell(f"timeout 20 {base} 2>&1; echo status $?")
    assert str(daemon.host.api_port) in output and "status 1" in output
    daemon.host.shell("echo 99 > /tmp/other/version")
    output = daemon.host.shell(f"timeout 20 {base} 2>&1; echo status $?")
    assert "written by another version" in output and "status 1" in output


def test_a_full_disk_while_snapshotting(daemon):
    templates = f"{daemon.host.state}/templates"
    before = daemon.footprint()["files"]
    # All of the file system but what the copy of the root file system needs, and a little for the guest to boot.
    blocks, block_bytes = map(int, daemon.host.shell(f"stat -f -c '%f %S' {templates}").split())  # root's reserve too
    free = blocks * block_bytes >> 20
    base = next(line for line in daemon.cubectl("template", "list").stdout.splitlines() if " base " in line).split()[0]
    needed = int(daemon.host.shell(f"du -m {templates}/{base}/disk").split()[0]) + 16
    daemon.host.shell(f"fallocate -l {free - needed}M {daemon.host.state}/../filler")
    try:
        failed = daemon.cubectl("template", "build", "full", "--image", "base.ext4", check=False)
        assert failed.returncode == 1 and "No space left" in failed.stderr
    finally:
        daemon.host.shell(f"rm {daemon.host.state}/../filler")
    assert "full" not in daemon.cubectl("template", "list").stdout
    assert daemon.footprint()["files"] == before
    with Sandbox.create("base") as box:
        assert box.commands.run("echo fine").stdout == "fine\n"


def test_a_damaged_template_is_refused_and_the_others_work(daemon):
    daemon.cubectl("template", "build", "victim", "--image", "base.ext4")
    victim = next(line for line in daemon.cubectl("template", "list").stdout.splitlines() if "victim" in line).split()[0]
    daemon.signal("TERM")
    daemon.host.shell(f"chmod u+w {daemon.host.state}/templates/{victim}/state && "
                      f"printf X | dd of={daemon.host.state}/templates/{victim}/state bs=1 seek=100 conv=notrunc")
    daemon.start()
    status, content = daemon.request("POST", "/v2/sandboxes", {"templateID": "victim"})
    assert status == 500 and "state" in json.loads(content)["message"]
    with Sandbox.create("base") as box:
        assert box.commands.run("echo fine").stdout == "fine\n"
    daemon.cubectl("template", "delete", "victim")


def test_a_template_deleted_under_its_sandboxes(daemon):
    daemon.cubectl("template", "build", "short-lived", "--image", "base.ext4")
    with Sandbox.create("short-lived") as box:
        daemon.cubectl("template", "delete", "short-lived")
        assert box.commands.run("ls /usr/bin | wc -l").exit_code == 0
        assert daemon.request("POST", "/v2/sandboxes", {"templateID": "short-lived"})[0] == 404


def test_a_thousand_sandboxes_leave_nothing_behind(poolless):
    daemon = poolless

    def come_and_go(count):
        return daemon.host.shell(f"{BUILD}/tools/bench.d/cube-bench --port {daemon.host.api_port} --api-key {KEY} churn "
                                 f"--count {count} --clients 4")

    come_and_go(20)
    before = daemon.footprint()
    print(come_and_go(1000))

    def back_to_before():  # teardown goes on behind the last answer
        after = daemon.footprint()
        return all(after[name] <= before[name] + slack for name, slack in
                   (("descriptors", 2), ("mappings", 24), ("threads", 0), ("scratch", 0), ("files", 0),
                    ("machines", 0)))
    wait_until(back_to_before, f"everything is as before: {before}, now {daemon.footprint()}")
