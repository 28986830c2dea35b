"""cubectl as a user has it, against the real daemon and real sandboxes."""

import fcntl
import hashlib
import json
import os
import pty
import select
import shutil
import struct
import subprocess
import termios
import time

import pytest
from conftest import BUILD, KEY

CUBECTL = BUILD / "tools/cubectl/cubectl"


@pytest.fixture
def box(daemon):
    """The id of a sandbox that cubectl made."""
    made = daemon.cubectl("sandbox", "create", "base", "--timeout", "600", "--metadata", "made=here").stdout.strip()
    yield made
    daemon.cubectl("sandbox", "kill", made, check=False)


class Terminal:
    """cubectl on a terminal of its own."""

    def __init__(self, daemon, *arguments, columns=90, rows=30):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve(CUBECTL, [CUBECTL, *arguments],
                      {"E2B_API_URL": daemon.url, "E2B_API_KEY": KEY, "TERM": "xterm", "PATH": os.environ["PATH"]})
        self.shown = ""
        self.resize(columns, rows)

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys):
        os.write(self.master, keys.encode())

    def read_until(self, text, seconds=120):
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"never showed {text!r}, but {self.shown!r}"
            self.shown += os.read(self.master, 65536).decode(errors="replace")

    def wait(self):
        _, status = os.waitpid(self.pid, 0)
        os.close(self.master)
        return os.waitstatus_to_exitcode(status)


def test_a_sandbox_from_create_to_kill(daemon, box):
    listed = json.loads(daemon.cubectl("--json", "sandbox", "list", "--metadata", "made=here").stdout)
    assert [each["sandboxID"] for each in listed] == [box]
    assert any(line.startswith(box) and "running" in line for line in daemon.cubectl("sandbox", "list").stdout.splitlines())
    assert "made=here" in daemon.cubectl("sandbox", "info", box).stdout

    done = daemon.cubectl("sandbox", "exec", box, "--", "echo out; echo err >&2; exit 5", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")

    daemon.cubectl("sandbox", "exec", box, "--", "echo kept > /dev/shm/note")
    daemon.cubectl("sandbox", "pause", box)
    assert json.loads(daemon.cubectl("--json", "sandbox", "info", box).stdout)["state"] == "paused"
    daemon.cubectl("sandbox", "resume", box, "--timeout", "600")
    assert daemon.cubectl("sandbox", "exec", box, "--", "cat", "/dev/shm/note").stdout == "kept\n"

    snapshot = daemon.cubectl("sandbox", "snapshot", box).stdout.strip()
    assert snapshot in daemon.cubectl("snapshot", "list").stdout
    daemon.cubectl("sandbox", "exec", box, "--", "echo changed > /dev/shm/note")
    daemon.cubectl("sandbox", "rollback", box, snapshot)
    assert daemon.cubectl("sandbox", "exec", box, "--", "cat /dev/shm/note").stdout == "kept\n"
    fork = daemon.cubectl("sandbox", "fork", box).stdout.strip()
    assert daemon.cubectl("sandbox", "exec", fork, "--", "cat /dev/shm/note").stdout == "kept\n"
    daemon.cubectl("sandbox", "kill", fork, box)
    daemon.cubectl("snapshot", "delete", snapshot)
    gone = daemon.cubectl("sandbox", "info", box, check=False)
    assert gone.returncode == 1 and gone.stderr == f"cubectl: sandbox '{box}' not found\n"
    assert "running" in daemon.cubectl("status").stdout


def test_input_is_passed_on_and_signals_end_the_command(daemon, box):
    command = [CUBECTL, "--api-url", daemon.url, "--api-key", KEY, "sandbox", "exec", box, "--"]
    done = subprocess.run([*command, "wc", "-c"], input=b"x" * 1_000_000, capture_output=True, timeout=300)
    assert done.stdout.strip() == b"1000000" and done.returncode == 0
    running = subprocess.Popen([*command, "echo ready; exec sleep 1000"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert running.stdout.readline() == b"ready\n"
    running.send_signal(2)
    assert running.wait(timeout=120) == 130
    assert daemon.cubectl("sandbox", "exec", box, "--", "pgrep -x sleep", check=False).stdout == ""


def test_a_shell(daemon, box):
    terminal = Terminal(daemon, "sandbox", "shell", box)
    terminal.type("echo $((40 + 2)); whoami; hostname\n")
    terminal.read_until("42\r\nuser\r\n" + box)
    terminal.resize(71, 23)
    terminal.type("sleep 1; stty size\n")
    terminal.read_until("23 71")
    terminal.type("exit 9\n")
    assert terminal.wait() == 9


def test_a_shell_of_its_own_goes_with_its_sandbox(daemon):
    before = len(json.loads(daemon.cubectl("--json", "sandbox", "list").stdout))
    terminal = Terminal(daemon, "sandbox", "shell")
    terminal.read_until("until this shell ends")
    terminal.type("echo $((1 + 1))ready\n")
    terminal.read_until("2ready")
    terminal.type("exit\n")
    assert terminal.wait() == 0
    assert len(json.loads(daemon.cubectl("--json", "sandbox", "list").stdout)) == before


def test_files_and_directories_there_and_back(daemon, box, tmp_path):
    content = os.urandom(8 << 20)
    tree = tmp_path / "tree"
    (tree / "sub/empty").mkdir(parents=True)
    (tree / "large").write_bytes(content)
    (tree / "sub/tool").write_text("#!/bin/sh\necho works\n")
    (tree / "sub/tool").chmod(0o755)
    daemon.cubectl("sandbox", "cp", str(tree), f"{box}:work")
    assert daemon.cubectl("sandbox", "exec", box, "--", "work/sub/tool").stdout == "works\n"
    digest = daemon.cubectl("sandbox", "exec", box, "--", "sha256sum < work/large").stdout.split()[0]
    assert digest == hashlib.sha256(content).hexdigest()
    daemon.cubectl("sandbox", "cp", f"{box}:work", str(tmp_path / "back"))
    assert (tmp_path / "back/large").read_bytes() == content
    assert (tmp_path / "back/sub/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "back/sub/empty").is_dir()
    assert daemon.cubectl("sandbox", "cp", f"{box}:work/sub/tool", "-").stdout == "#!/bin/sh\necho works\n"
    missing = daemon.cubectl("sandbox", "cp", f"{box}:none", str(tmp_path), check=False)
    assert missing.returncode == 1 and f"{box}:none" in missing.stderr


def test_completion_scripts_load(daemon, box):
    script = daemon.cubectl("completion", "bash").stdout
    loaded = subprocess.run(["bash", "-c", script + "\ncomplete -p cubectl"], capture_output=True, text=True)
    assert loaded.stdout.strip() == "complete -F _cubectl cubectl" and loaded.stderr == ""
    assert box in daemon.cubectl("__complete", "--", "sandbox", "kill", "").stdout
    if shutil.which("zsh"):
        checked = subprocess.run(["zsh", "-n"], input=daemon.cubectl("completion", "zsh").stdout, capture_output=True, text=True)
        assert checked.returncode == 0 and checked.stderr == ""
