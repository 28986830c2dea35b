"""What E2B's template `base` promises to be there, as its SDKs' own tests rely on it."""

import pytest


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
