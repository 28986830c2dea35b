"""What a user does, with E2B's own Python SDK."""

import concurrent.futures
import time

import pytest
from conftest import wait_until
from e2b import CommandExitException, FileType, NotFoundException, Sandbox, SandboxNotFoundException, TimeoutException


def test_commands_run_in_the_guests_own_kernel(daemon, sandbox):
    release = sandbox.commands.run("uname -r").stdout.strip()
    assert release.startswith("6.12") and release.endswith("cube")
    assert release != daemon.host.shell("uname -r").strip()
    assert sandbox.commands.run("id -un && pwd").stdout == "user\n/home/user\n"


def test_output_streams_and_exit_code(sandbox):
    seen = []
    result = sandbox.commands.run("echo out; echo err >&2; exit 0", on_stdout=seen.append)
    assert (result.stdout, result.stderr, result.exit_code, seen) == ("out\n", "err\n", 0, ["out\n"])
    with pytest.raises(CommandExitException) as failure:
        sandbox.commands.run("echo no >&2; exit 7")
    assert (failure.value.exit_code, failure.value.stderr) == (7, "no\n")


def test_background_stdin_list_and_kill(sandbox):
    handle = sandbox.commands.run("cat; sleep 3600", background=True, stdin=True)
    assert handle.pid in [process.pid for process in sandbox.commands.list()]
    sandbox.commands.send_stdin(handle.pid, "ping\n")
    for stdout, _, _ in handle:
        assert stdout == "ping\n"
        break
    assert sandbox.commands.kill(handle.pid) is True
    wait_until(lambda: handle.pid not in [process.pid for process in sandbox.commands.list()], "it is gone")
    assert sandbox.commands.kill(handle.pid) is False
    other = sandbox.commands.connect(sandbox.commands.run("sleep 0.2; echo late", background=True).pid)
    assert other.wait().stdout == "late\n"


def test_a_command_that_takes_too_long_is_ended(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 3600", timeout=1)
    wait_until(lambda: sandbox.commands.run("pgrep -x sleep || true").stdout == "", "the command is gone")


def test_large_output_arrives_whole(sandbox):
    assert len(sandbox.commands.run("head -c 3000000 /dev/zero | tr '\\0' x").stdout) == 3_000_000


def test_environment(daemon):
    with Sandbox.create("base", envs={"COLOUR": "blue"}) as box:
        assert box.commands.run("echo $COLOUR $E2B_SANDBOX $E2B_SANDBOX_ID").stdout == f"blue true {box.sandbox_id}\n"
        assert box.commands.run("echo $COLOUR", envs={"COLOUR": "red"}).stdout == "red\n"


def test_files(sandbox):
    files = sandbox.files
    assert files.make_dir("/home/user/a/b") is True
    assert files.make_dir("/home/user/a/b") is False
    for content in (b"", b"\x00\xff binary \r\n", bytes(range(256)) * 5000):
        files.write("a/data with spaces é", content)
        assert bytes(files.read("a/data with spaces é", format="bytes")) == content
    assert files.read("a/../a/./data with spaces é", format="bytes")
    entry = files.get_info("a/b")
    assert (entry.type, entry.owner, entry.path) == (FileType.DIR, "user", "/home/user/a/b")
    assert {item.name for item in files.list("a")} == {"b", "data with spaces é"}
    assert files.exists("a/b") and not files.exists("nowhere")
    files.rename("a/b", "c/d")
    assert files.exists("c/d") and not files.exists("a/b")
    files.remove("a")
    assert not files.exists("a")
    with pytest.raises(NotFoundException):
        files.read("a")


def test_life_cycle(daemon):
    box = Sandbox.create("base", timeout=60, metadata={"who": "me & you"})
    assert box.is_running()
    info = box.get_info()
    assert info.metadata == {"who": "me & you"} and 50 < (info.end_at - info.started_at).total_seconds() <= 60
    listed = [item.sandbox_id for item in Sandbox.list().next_items()]
    assert box.sandbox_id in listed
    same = Sandbox.connect(box.sandbox_id, timeout=30)
    assert same.get_info().end_at == info.end_at  # connecting never shortens
    assert same.commands.run("echo again").stdout == "again\n"
    box.set_timeout(600)
    assert (box.get_info().end_at - info.started_at).total_seconds() > 590
    assert box.kill() is True
    assert box.kill() is False
    assert not box.is_running()
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect(box.sandbox_id)


def test_the_deadline_ends_a_sandbox(daemon):
    box = Sandbox.create("base", timeout=2)
    deadline = time.monotonic() + 20
    while box.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(SandboxNotFoundException):
        box.get_info()


def test_killing_ends_a_running_stream(daemon):
    box = Sandbox.create("base")
    handle = box.commands.run("sleep 3600", background=True, timeout=0)
    started = time.monotonic()
    box.kill()
    with pytest.raises(Exception):
        handle.wait()
    assert time.monotonic() - started < 10


def test_the_guests_kernel_hears_that_it_is_a_copy(sandbox):
    def reseeded():
        return "crng reseeded due to virtual machine fork" in sandbox.commands.run("dmesg", user="root").stdout

    wait_until(reseeded, "the kernel reseeded")


def test_sandboxes_do_not_see_each_others_writes(daemon):
    with Sandbox.create("base") as a, Sandbox.create("base") as b:
        a.commands.run("echo mine > /home/user/secret && sync")
        assert not b.files.exists("/home/user/secret")
        assert a.files.read("/home/user/secret") == "mine\n"


def test_ports_of_the_guest(daemon, sandbox):
    sandbox.commands.run("mkdir www && echo hello > www/index.html")
    sandbox.commands.run("cd www && python3 -m http.server --bind 127.0.0.1 8000", background=True, timeout=0)
    headers = [("E2b-Sandbox-Id", sandbox.sandbox_id), ("E2b-Sandbox-Port", "8000")]
    deadline = time.monotonic() + 30
    while (answer := daemon.request("GET", "/index.html", key=None, headers=headers))[0] == 502:
        assert time.monotonic() < deadline
    assert answer == (200, b"hello\n")
    status, body = daemon.request("GET", "/", key=None, headers=[headers[0], ("E2b-Sandbox-Port", "9")])
    assert status == 502 and b"port is not open" in body
    host = [("Host", f"8000-{sandbox.sandbox_id}.cube.test")]
    assert daemon.request("GET", "/index.html", key=None, headers=host)[0] == 200


def test_twenty_at_once(daemon):
    def one(number):
        with Sandbox.create("base") as box:
            return box.commands.run(f"echo {number}").stdout

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == [f"{number}\n" for number in range(20)]
