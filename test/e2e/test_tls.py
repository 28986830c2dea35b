"""TLS, HTTP/2 and host names of a domain: what E2B's SDK does without E2B_API_URL and E2B_SANDBOX_URL."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from conftest import BUILD, KEY, ROOT, wait_until

DOMAIN = "cube.test"

USER = '''
import hashlib, os
from e2b import Sandbox

box = Sandbox.connect(os.environ["SANDBOX"]) if "SANDBOX" in os.environ else Sandbox.create("base")
try:
    assert box.is_running()
    seen = []
    assert box.commands.run("echo out; sleep 0.2; echo more", on_stdout=seen.append).stdout == "out\\nmore\\n"
    assert seen == ["out\\n", "more\\n"], seen
    assert len(box.commands.run("head -c 3000000 /dev/zero | tr '\\\\0' x").stdout) == 3_000_000
    content = bytes(range(256)) * 20_000
    box.files.write("data", content)
    assert bytes(box.files.read("data", format="bytes")) == content
    assert box.commands.run("sha256sum < data").stdout.split()[0] == hashlib.sha256(content).hexdigest()
    handle = box.commands.run("cat", background=True, stdin=True)
    box.commands.send_stdin(handle.pid, "ping\\n")
    for stdout, _, _ in handle:
        assert stdout == "ping\\n"
        break
    box.commands.kill(handle.pid)
    streams = [box.commands.run("sleep 300", background=True, timeout=0) for _ in range(20)]
    box.kill()
    for stream in streams:
        try:
            stream.wait()
        except Exception:
            continue
        raise SystemExit("a stream of a killed sandbox ended in order")
    assert not box.is_running()
finally:
    box.kill()
print("done")
'''


@pytest.fixture(scope="module")
def tls(daemon):
    """The daemon with TLS; the directory of its certificates."""
    directory = daemon.host.run / "tls"
    printed = daemon.cubectl("cert", "--domain", DOMAIN, "--out", str(directory), "--port", str(daemon.host.api_port)).stdout
    assert f"E2B_DOMAIN={DOMAIN}:{daemon.host.api_port}" in printed and f"SSL_CERT_FILE={directory}/ca.pem" in printed
    daemon.signal("TERM")
    daemon.start(options=("--tls-cert", str(directory / "server.pem"), "--tls-key", str(directory / "server.key"),
                          "--domain", f"{DOMAIN}:{daemon.host.api_port}", "--log-level", "debug"))
    yield directory
    daemon.signal("TERM")
    daemon.start()


def curl(daemon, directory, *arguments, host="localhost"):
    """Status, HTTP version and body of one request."""
    port = daemon.host.api_port
    done = subprocess.run(["curl", "-sS", "--cacert", directory / "ca.pem", "--resolve", f"{host}:{port}:127.0.0.1",
                           "-H", f"X-API-Key: {KEY}", "-w", "\n%{http_code} %{http_version}", *arguments],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    body, _, last = done.stdout.rpartition("\n")
    status, version = last.split()
    return int(status), version, body


def connections(daemon, protocol):
    log = daemon.host.shell(f"cat {daemon.host.run}/cubed.log")
    return sum(f'"protocol":"{protocol}"' in line for line in log.splitlines() if '"TLS connection"' in line)


def run_python(tls, code, environment, prefix=()):
    """What it prints, with the SDK and an environment of its own."""
    environment = {**{name: value for name, value in os.environ.items() if not name.startswith("E2B_")},
                   "E2B_API_KEY": KEY, "SSL_CERT_FILE": str(tls / "ca.pem"), **environment}
    done = subprocess.run([*prefix, sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_port_speaks_everything(daemon, tls):
    port = daemon.host.api_port
    assert curl(daemon, tls, f"https://localhost:{port}/health")[:2] == (200, "2")
    assert curl(daemon, tls, "--http1.1", f"https://localhost:{port}/health")[:2] == (200, "1.1")
    assert curl(daemon, tls, f"http://localhost:{port}/health")[:2] == (200, "1.1")
    assert curl(daemon, tls, f"https://api.{DOMAIN}:{port}/templates", host=f"api.{DOMAIN}")[:2] == (200, "2")


@pytest.mark.parametrize("version, protocol", [("2", "HTTP/2"), ("1.1", "HTTP/1.1")])
def test_the_sdk_over_tls(daemon, tls, version, protocol):
    before = connections(daemon, protocol)
    url = f"https://localhost:{daemon.host.api_port}"
    environment = {"E2B_API_URL": url, "E2B_SANDBOX_URL": url, "E2B_HTTP_VERSION": version}
    assert run_python(tls, USER, environment) == "done\n"
    assert connections(daemon, protocol) > before


def test_the_javascript_sdk_over_tls(daemon, tls, tmp_path):
    modules = subprocess.run([ROOT / "tools/sdk", "npm"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    script = tmp_path / "sdk.test.mjs"
    script.write_text((ROOT / "test/e2e/sdk.test.mjs").read_text())
    (tmp_path / "node_modules").symlink_to(f"{modules}/node_modules")
    url = f"https://localhost:{daemon.host.api_port}"
    before = connections(daemon, "HTTP/2")
    done = subprocess.run(["node", "--test", "--test-name-pattern", "^(commands|background|files|life)", str(script)],
                          env={**os.environ, "NODE_EXTRA_CA_CERTS": str(tls / "ca.pem"), "E2B_API_URL": url, "E2B_SANDBOX_URL": url},
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == 0, done.stdout
    assert connections(daemon, "HTTP/2") > before


@pytest.mark.skipif(os.geteuid() != 0, reason="names its hosts in a mount namespace: needs root")
def test_the_sdk_with_nothing_but_a_domain(daemon, tls, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost api.{DOMAIN}\n")
    script = f"mount --bind {shlex.quote(str(hosts))} /etc/hosts && exec \"$@\""
    prefix = ["unshare", "--mount", "sh", "-c", script, "sh"]
    environment = {"E2B_DOMAIN": f"{DOMAIN}:{daemon.host.api_port}"}
    create = "from e2b import Sandbox; print(Sandbox.create('base').sandbox_id)"
    name = run_python(tls, create, environment, prefix).strip()
    # The SDK reads that file once: another process knows the sandbox's name.
    hosts.write_text(f"127.0.0.1 localhost api.{DOMAIN} 49983-{name}.{DOMAIN}\n")
    assert run_python(tls, USER, {**environment, "SANDBOX": name}, prefix) == "done\n"


def test_a_port_of_a_sandbox_by_its_host_name(daemon, tls):
    from e2b import Sandbox

    with Sandbox.create("base") as box:
        box.commands.run("mkdir www && head -c 2000000 /dev/urandom > www/data && sha256sum < www/data > www/sum")
        box.commands.run("cd www && python3 -m http.server --bind 127.0.0.1 8000", background=True, timeout=0)
        host = box.get_host(8000).partition(":")[0]
        assert host == f"8000-{box.sandbox_id}.{DOMAIN}"
        url = f"https://{host}:{daemon.host.api_port}"
        wait_until(lambda: curl(daemon, tls, f"{url}/sum", host=host)[0] == 200, "the server in the guest answers")
        fetched = tls / "data"
        assert curl(daemon, tls, "-o", fetched, f"{url}/data", host=host)[:2] == (200, "2")
        digest = subprocess.run(["sha256sum", fetched], capture_output=True, text=True).stdout.split()[0]
        assert digest in curl(daemon, tls, f"{url}/sum", host=host)[2]
        # A client that wants a WebSocket offers HTTP/1.1; on HTTP/2 there is no upgrade to ask for.
        assert curl(daemon, tls, "--http1.1", f"{url}/sum", host=host)[1] == "1.1"


def test_the_certificate_is_read_again_without_dropping_a_stream(daemon, tls):
    code = ("from e2b import Sandbox\n"
            "with Sandbox.create('base') as box:\n"
            "    handle = box.commands.run('echo started; read line; echo got $line', background=True, stdin=True)\n"
            "    print('started', flush=True); input()\n"
            "    box.commands.send_stdin(handle.pid, 'on\\n')\n"
            "    print(handle.wait().stdout, flush=True)\n")
    url = f"https://localhost:{daemon.host.api_port}"
    user = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "SSL_CERT_FILE": str(tls / "ca.pem"), "E2B_API_URL": url, "E2B_SANDBOX_URL": url})
    try:
        assert user.stdout.readline() == "started\n"
        daemon.cubectl("cert", "--domain", DOMAIN, "--out", str(tls))
        hangup(daemon, "read the TLS certificate again")
        assert user.communicate("\n", timeout=120)[0] == "started\ngot on\n\n"
    finally:
        user.kill()
    key = (tls / "server.key").read_text()
    (tls / "server.key").write_text("nonsense")
    hangup(daemon, "the old TLS certificate stays in use")
    assert curl(daemon, tls, f"{url}/health")[0] == 200
    (tls / "server.key").write_text(key)


def hangup(daemon, message):
    def count():
        return daemon.host.shell(f"grep -c {shlex.quote(message)} {daemon.host.run}/cubed.log || true").strip()

    before = count()
    daemon.host.shell(f"kill -HUP {daemon.pid}")
    wait_until(lambda: count() != before, message)


def test_bad_files_keep_the_daemon_from_starting_and_are_named(daemon, tls, tmp_path):
    cubed = shlex.quote(str(BUILD / "src/daemon/cubed"))
    state = "--state-dir /tmp/cubed-tls-state"
    for options, reason in (("--tls-cert /nowhere.pem --tls-key /nowhere.key", "/nowhere.pem"),
                            (f"--tls-cert {tls}/server.pem --tls-key {tls}/ca.key", "does not belong"),
                            (f"--tls-cert {tls}/server.pem", "--tls-key")):
        output = daemon.host.shell(f"{cubed} {state} {options} 2>&1 || true")
        assert reason in output, output
    assert json.loads(curl(daemon, tls, f"http://localhost:{daemon.host.api_port}/templates")[2])
