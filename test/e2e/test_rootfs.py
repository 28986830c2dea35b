"""What E2B's template `base` promises to be there, as its SDKs' own tests rely on it."""

import pytest
from e2b import PtySize, Sandbox


def test_user_and_superuser(sandbox):
    run = sandbox.commands.run
    assert run("whoami; pwd; sudo -n whoami").stdout.split() == ["user", "/home/user", "root"]
    assert run("whoami; pwd", user="root").stdout.split() == ["root", "/root"]


@pytest.mark.parametrize("command", [
    "bash --version", "python --version", "python3 --version", "node --version", "npm --version", "curl --version",
    "wget --version", "ps --version", "ss --version", "pgrep --version", "git --version", "sudo --version",
])
def test_programs(sandbox, command):
    assert sandbox.commands.run(command, timeout=180).exit_code == 0


def test_git_serves_what_it_is_given(sandbox):
    script = """set -e
        git init -q --bare repositories/a
        git daemon --export-all --base-path=repositories --listen=127.0.0.1 --detach --pid-file=daemon.pid
        until git ls-remote git://127.0.0.1/a; do kill -0 "$(cat daemon.pid)"; done
        kill "$(cat daemon.pid)"
        """
    assert sandbox.commands.run(script, timeout=180).exit_code == 0


def test_places_anybody_may_write_to(sandbox):
    assert sandbox.commands.run("touch /code/a /usr/local/bin/a /usr/local/lib/a /home/user/a /tmp/a").exit_code == 0


def test_certificates_and_pip(sandbox):
    assert sandbox.commands.run("test -s /etc/ssl/certs/ca-certificates.crt && pip --version", timeout=180).exit_code == 0


def test_completion_is_there_when_tab_is_pressed(sandbox):
    shown = bytearray()
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=300)
    sandbox.pty.send_stdin(terminal.pid, b"git checko\t--help; exit 0\n")
    terminal.wait(on_pty=shown.extend)
    assert b"git checkout --help" in shown


STARTED_FIRST = """set -e
    bash -il -c true </dev/null
    git init -q one && git -C one status
    python3 -m http.server --help
    node -e 'require("http")'
    """


def test_what_is_started_first_is_in_memory(sandbox):
    def sectors_read():
        return int(sandbox.commands.run("cut -d ' ' -f 1-20 /sys/block/vda/stat").stdout.split()[2])

    before = sectors_read()
    sandbox.commands.run(STARTED_FIRST, timeout=300)
    assert (sectors_read() - before) * 512 < 1 << 20  # of tens


def test_what_an_image_wants_run_before_it_is_captured(daemon):
    put = "cd /etc/cube/warm.d && rm -f base && printf '#!/bin/sh\\nexit 3\\n' >fails && printf '#!/bin/sh\\nid -un >/ran\\n' >works && chmod +x *"
    built = daemon.cubectl("template", "build", "warmed", "--image", "base.ext4", "--ready-cmd", put)
    assert "/etc/cube/warm.d/fails: exit status 3" in built.stderr and "warm.d/works" not in built.stderr
    with Sandbox.create("warmed") as box:
        assert box.files.read("/ran") == "root\n"
    daemon.cubectl("template", "delete", "warmed")
