"""What a sandbox uses and what happened to it: E2B's SDK, and plain REST."""

import datetime
import json
import time

from conftest import wait_until
from e2b import Sandbox


def get(daemon, path):
    status, body = daemon.request("GET", path)
    assert status == 200, (path, status, body)
    return json.loads(body)


def test_metrics_by_the_sdk(sandbox):
    begun = datetime.datetime.now(datetime.timezone.utc)
    metrics = wait_until(sandbox.get_metrics, "there are metrics")
    newest = metrics[-1]
    assert newest.cpu_count >= 1 and 0 <= newest.cpu_used_pct <= 100
    assert 0 < newest.mem_used < newest.mem_total and 0 < newest.disk_used < newest.disk_total
    past = sandbox.get_metrics(start=begun - datetime.timedelta(hours=1), end=begun - datetime.timedelta(minutes=30))
    assert past == []
    now = datetime.datetime.now(datetime.timezone.utc)
    within = wait_until(lambda: sandbox.get_metrics(start=begun, end=datetime.datetime.now(datetime.timezone.utc)),
                        "there are metrics of now")
    assert all(begun - datetime.timedelta(seconds=1) <= metric.timestamp for metric in within)
    assert within[0].timestamp <= now + datetime.timedelta(seconds=30)


def test_metrics_until_now_by_a_clock_that_is_behind(daemon, sandbox):
    def until(seconds_ago):
        now = int(daemon.host.shell("date +%s"))
        return get(daemon, f"/sandboxes/{sandbox.sandbox_id}/metrics?start={now - 600}&end={now - seconds_ago}")

    wait_until(lambda: until(3), "what was sampled for the request is part of its answer")
    assert until(60) == []


def test_what_a_guest_does_shows_in_its_metrics(daemon, sandbox):
    sandbox.commands.run("head -c 60000000 /dev/urandom > /home/user/file && sync", timeout=300)
    before = sandbox.get_metrics()
    sandbox.commands.run("while :; do :; done", background=True, timeout=0)

    def busy_and_full():
        metric = sandbox.get_metrics()[-1]
        return metric.cpu_used_pct > 20 and metric.disk_used > 60_000_000

    wait_until(busy_and_full, "its processor is busy and its disk used")
    assert len(sandbox.get_metrics()) > len(before)  # one more at least, and in order
    times = [metric["timestampUnix"] for metric in get(daemon, f"/sandboxes/{sandbox.sandbox_id}/metrics")]
    assert times == sorted(times)


def test_the_newest_metrics_of_many(daemon, sandbox):
    with Sandbox.create("base") as other:
        ids = f"{sandbox.sandbox_id},{other.sandbox_id},nonexistingsandbox"
        metrics = wait_until(lambda: (found := get(daemon, f"/sandboxes/metrics?sandbox_ids={ids}")["sandboxes"])
                             and len(found) == 2 and found, "both answer")
        assert set(metrics) == {sandbox.sandbox_id, other.sandbox_id}
        assert metrics[other.sandbox_id]["memTotal"] > 0


def test_a_paused_sandbox_keeps_its_metrics(daemon, sandbox):
    kept = wait_until(sandbox.get_metrics, "there are metrics")
    sandbox.pause()
    assert [metric.timestamp for metric in sandbox.get_metrics()] == [metric.timestamp for metric in kept]


def test_logs_tell_what_happened_outside_and_inside(daemon, sandbox):
    sandbox.commands.run("exit 0 # \N{SNOWMAN} and 'quotes \"")
    before_pause = time.time()
    sandbox.pause()
    paused = get(daemon, f"/sandboxes/{sandbox.sandbox_id}/logs")
    assert [entry["message"] for entry in paused["logEntries"]][-1] == "sandbox paused"
    Sandbox.connect(sandbox.sandbox_id, timeout=300)
    path = f"/sandboxes/{sandbox.sandbox_id}/logs"

    logs = get(daemon, path)
    messages = [entry["message"] for entry in logs["logEntries"]]
    for message in ("sandbox created", "process started", "process ended", "sandbox paused", "sandbox resumed"):
        assert message in messages, messages
    assert messages.index("process started") < messages.index("process ended")
    times = [entry["timestamp"] for entry in logs["logEntries"]]
    assert times == sorted(times)
    lines = [json.loads(log["line"]) for log in logs["logs"]]
    started = next(line for line in lines if line["message"] == "process started" and "exit 0" in line["cmd"])
    assert started["level"] == "info" and started["logger"] == "cube-agent" and started["user"] == "user"
    assert "\N{SNOWMAN} and 'quotes \"" in started["cmd"]

    recent = get(daemon, f"{path}?start={int(before_pause * 1000)}")["logEntries"]
    assert "sandbox created" not in [entry["message"] for entry in recent]
    newest = get(daemon, f"/v2{path}?direction=backward&limit=1")["logs"]
    assert newest[0]["timestamp"] == times[-1]
    found = get(daemon, f"/v2{path}?search=paused")["logs"]
    assert [entry["message"] for entry in found] == ["sandbox paused"]
    assert get(daemon, f"/v2{path}?level=error")["logs"] == []
    assert daemon.request("GET", "/sandboxes/nonexistingsandbox/logs")[0] == 404


def test_no_user_reaches_the_journal_through_the_proxy(daemon, sandbox):
    for port in ("49983", "1024"):
        headers = [("E2b-Sandbox-Id", sandbox.sandbox_id), ("E2b-Sandbox-Port", port)]
        status, body = daemon.request("GET", "/journal", key=None, headers=headers)
        assert status in (401, 404, 502) and b"entries" not in body


def test_connecting_without_memory_boots_from_the_disk(daemon, sandbox):
    boot_id = "cat /proc/sys/kernel/random/boot_id"
    sandbox.files.write("/home/user/kept", "still here")
    sandbox.commands.run("sync")
    sandbox.commands.run("echo volatile > /dev/shm/volatile")
    before = sandbox.commands.run(boot_id).stdout
    sandbox.pause()
    path = f"/v2/sandboxes/{sandbox.sandbox_id}/connect"
    status, body = daemon.request("POST", path, {"timeout": 300, "memory": False})
    assert status == 201, body
    assert sandbox.commands.run(boot_id).stdout != before
    assert sandbox.files.read("/home/user/kept") == "still here"
    assert not sandbox.files.exists("/dev/shm/volatile")
    # And it can be kept again, with the memory it has now.
    sandbox.commands.run("echo new > /dev/shm/new")
    again = sandbox.commands.run(boot_id).stdout
    sandbox.pause()
    Sandbox.connect(sandbox.sandbox_id, timeout=300)
    assert sandbox.commands.run(boot_id).stdout == again
    assert sandbox.files.read("/dev/shm/new") == "new\n"


def test_an_idempotency_key_makes_one_sandbox(daemon):
    headers = [("Idempotency-Key", f"test-{time.time_ns()}")]
    body = {"templateID": "base", "timeout": 60}
    first = daemon.request("POST", "/v2/sandboxes", body, headers=headers)
    assert first[0] == 201
    assert daemon.request("POST", "/v2/sandboxes", body, headers=headers) == first
    status, refused = daemon.request("POST", "/v2/sandboxes", {**body, "timeout": 61}, headers=headers)
    assert status == 422 and json.loads(refused)["error_code"] == "idempotency_request_mismatch"
    daemon.request("DELETE", f"/sandboxes/{json.loads(first[1])['sandboxID']}")
