"""The real daemon with real guests: in the KVM lab, or directly where the processor can."""

import json
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from _pytest.runner import runtestprotocol

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CUBED_BUILD", ROOT / "build/check"))
KEY = "e2b_" + "0123456789abcdef" * 2 + "01234567"
# Seconds, for labs that are slow: until what will happen has happened, and a sandbox whose test needs more than the usual life.
PATIENCE = 120
LONG = 3600
READY = "curl -sf http://127.0.0.1:49999/health"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition, what):
    """Polls until the condition holds; its value."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


class Host:
    """The machine that cubed runs on."""

    current = None  # the session's

    def __init__(self, run_directory):
        self.run = pathlib.Path(run_directory)
        self.api_port, self.control_port = free_port(), free_port()
        self.direct = subprocess.run([ROOT / "tools/lab", "--check"], capture_output=True, text=True,
                                     check=True).stdout.startswith("hardware")
        self.state = str(self.run / "state") if self.direct else "/var/lib/cubed/state"
        server = ["python3", str(ROOT / "test/e2e/host.py"), str(self.control_port)]
        if not self.direct:
            server = [str(ROOT / "tools/lab"), "--ephemeral", "--memory", "8G", "--share", str(self.run),
                      "--forward", str(self.api_port), "--forward", str(self.control_port), "--"] + server
        self.log = open(self.run / "host.log", "wb")
        self.process = subprocess.Popen(server, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        try:
            wait_until(self._answers, "the lab answers")
        except BaseException:
            self.stop()
            raise
        if not self.direct:  # a crash leaves its core beside the logs
            self.shell(f"echo {self.run}/core > /proc/sys/kernel/core_pattern")

    def _answers(self):
        assert self.process.poll() is None, (self.run / "host.log").read_text()
        try:
            return self.shell("true") == ""
        except OSError:
            return False

    def shell(self, command, check=True):
        """Runs a bash command line there; its output."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.control_port}/", data=command.encode())
        with urllib.request.urlopen(request, timeout=600) as response:
            answer = json.load(response)
        if check and answer["status"] != 0:
            raise AssertionError(f"{command}: status {answer['status']}: {answer['output']}")
        return answer["output"]

    def stalled(self):
        """Seconds for which the whole machine stood still so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.control_port}/", timeout=300) as response:
            return json.load(response)["stalled"]

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


class Daemon:
    """cubed, which can be started, killed and looked at."""

    def __init__(self, host, images, kernel):
        self.host = host
        self.url = f"http://127.0.0.1:{host.api_port}"
        self.command = [str(BUILD / "src/daemon/cubed"), "--listen", f"127.0.0.1:{host.api_port}", "--kernel", kernel,
                        "--image-dir", images, "--state-dir", host.state, "--api-key-file", f"{host.state}.key"]
        host.shell(f"mkdir -p {os.path.dirname(host.state)} && echo {KEY} > {host.state}.key")
        self.pid = None

    def start(self, images=None, options=()):
        command = [*self.command, *options]
        if images:
            command[command.index("--image-dir") + 1] = images
        command = shlex.join(command)
        self.pid = int(self.host.shell(f"ulimit -c unlimited; setsid {command} >> {self.host.run}/cubed.log 2>&1 < /dev/null & echo $!"))
        wait_until(self.healthy, "the daemon is healthy")

    def healthy(self):
        try:
            return self.request("GET", "/health", key=None)[0] == 200
        except OSError:
            return False

    def signal(self, name):
        """Sends a signal and waits until the process is gone."""
        self.host.shell(f"kill -{name} {self.pid} && while kill -0 {self.pid} 2>/dev/null; do sleep 0.05; done")

    def request(self, method, path, body=None, key=KEY, headers=()):
        """Status and body of one request; a body that is not bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        if key:
            request.add_header("X-API-Key", key)
        for name, value in headers:
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def cubectl(self, *arguments, check=True):
        done = subprocess.run([BUILD / "tools/cubectl/cubectl", "--api-url", self.url, "--api-key", KEY, *arguments],
                              capture_output=True, text=True, timeout=900)
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def machines(self):
        """The processes of its machines, those without a guest included."""
        found = self.host.shell(f"pgrep -P $(pgrep -P {self.pid} -x cube-spawner) -x cube-machine", check=False)
        return list(map(int, found.split()))

    def footprint(self):
        """What must not grow: descriptors, mappings and threads of the daemon, its machines, files in its state directory;
        those of running sandboxes, and of ones made ahead of time, are in `scratch`."""
        counts = self.host.shell(f"ls /proc/{self.pid}/fd | wc -l; wc -l < /proc/{self.pid}/maps;"
                                 f"ls /proc/{self.pid}/task | wc -l; ls -A {self.host.state}/scratch | wc -l;"
                                 f"find {self.host.state} -path {self.host.state}/scratch -prune -o -not -name 'store.db-*' -print | wc -l")
        names = ("descriptors", "mappings", "threads", "scratch", "files")
        return dict(zip(names, map(int, counts.split())), machines=len(self.machines()))


def pytest_collection_modifyitems(items):
    """Each of several labs takes whole files; what needs the large template goes to one of them."""
    for item in items:
        large = "code_interpreter" in item.fixturenames
        item.add_marker(pytest.mark.xdist_group("code_interpreter" if large else item.path.stem))


def pytest_runtest_protocol(item, nextitem):
    """The emulated processor of the lab now and then loses a timer interrupt and stands still for two minutes, host and
    guests alike (QEMU 7.2). A test that failed while that happened says nothing of cubed: it is run once more."""
    if Host.current is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    before = Host.current.stalled()
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports) and Host.current and Host.current.stalled() > before:
        print(f"\n{item.nodeid}: run again, the lab stood still for {Host.current.stalled() - before:.0f} s")
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(scope="session")
def host():
    # Kept for its logs until the next run.
    directory = BUILD / "e2e-run" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    machine = Host.current = Host(directory)
    yield machine
    Host.current = None
    machine.stop()


@pytest.fixture(scope="session")
def daemon(host):
    kernel, images = subprocess.run([ROOT / "tools/images", "--agent", BUILD / "guest/agent/cube-agent"],
                                    stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    cubed = Daemon(host, images, kernel)
    cubed.start()
    cubed.cubectl("template", "build", "base")
    os.environ.update(E2B_API_URL=cubed.url, E2B_SANDBOX_URL=cubed.url, E2B_API_KEY=KEY)
    yield cubed
    cubed.signal("TERM")
    assert "a transition that should not be" not in host.shell(f"cat {host.run}/cubed.log")


@pytest.fixture(autouse=True)
def daemon_again(request):
    """A test that failed and left the daemon dead is not the end of the others."""
    if "daemon" in request.fixturenames:
        cubed = request.getfixturevalue("daemon")
        if not cubed.healthy():
            cubed.start()


@pytest.fixture(scope="session")
def code_interpreter(daemon):
    """Its template is large: only the tests that need it wait for it."""
    daemon.cubectl("template", "build", "code-interpreter-v1", "--memory", "2048", "--ready-cmd", READY)


@pytest.fixture
def poolless(daemon):
    """The daemon without pools, which have a right to grow, and talkative: for counting what is left behind."""
    daemon.signal("TERM")
    daemon.start(options=("--warm-sandboxes", "0", "--vm-shells", "0", "--log-level", "debug"))
    yield daemon
    daemon.signal("TERM")
    daemon.start()


@pytest.fixture
def sandbox(daemon):
    from e2b import Sandbox

    with Sandbox.create("base", timeout=LONG) as box:
        yield box
