"""What goes wrong says so in E2B's shape, and leaves nothing behind."""

import json
import time

import pytest


@pytest.mark.parametrize(
    "method, path, body, status, text",
    [
        ("POST", "/v2/sandboxes", {"templateID": "nowhere"}, 404, "template 'nowhere' not found"),
        ("POST", "/v2/sandboxes", {"templateID": "base:v9"}, 404, "tag 'v9' does not exist for template 'base'"),
        ("POST", "/v2/sandboxes", {"templateID": "../../etc/passwd"}, 404, "not found"),
        ("POST", "/v2/sandboxes", b'{"templateID":', 400, ""),
        ("POST", "/v2/sandboxes", [], 400, ""),
        ("POST", "/v2/sandboxes", {"templateID": 7}, 400, "templateID"),
        ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": "soon"}, 400, "timeout"),
        ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 0}, 400, "imeout"),
        ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": -5}, 400, "imeout"),
        ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 10**6}, 400, "24 hours"),
        ("POST", "/v2/sandboxes", {"templateID": "base", "metadata": {"a": 1}}, 400, "metadata"),
        ("GET", "/sandboxes/inonexistingsandbox00", None, 404, "not found"),
        ("DELETE", "/sandboxes/inonexistingsandbox00", None, 404, "not found"),
        ("POST", "/sandboxes/inonexistingsandbox00/timeout", {"timeout": 5}, 404, "not found"),
        ("POST", "/v2/sandboxes/inonexistingsandbox00/connect", {}, 404, "not found"),
        ("DELETE", "/templates/nowhere", None, 404, "not found"),
        ("POST", "/templates/images", {"name": "../x", "image": "base.ext4"}, 400, ""),
        ("POST", "/templates/images", {"name": "x", "image": "../../etc/passwd"}, 400, ""),
        ("POST", "/nowhere", {}, 404, ""),
        ("PUT", "/v2/sandboxes", {}, 405, ""),
    ],
)
def test_refused_with_a_reason(daemon, method, path, body, status, text):
    answer, content = daemon.request(method, path, body)
    assert answer == status, content
    error = json.loads(content)
    assert error["code"] == status and text in error["message"] and error["message"]


def test_a_body_that_is_too_long(daemon):
    answer, content = daemon.request("POST", "/v2/sandboxes", b'{"templateID":"' + b"x" * (2 << 20) + b'"}')
    assert answer == 413 and json.loads(content)["code"] == 413


def test_keys(daemon):
    for key in (None, "e2b_" + "0" * 40, "x"):
        answer, content = daemon.request("GET", "/v2/sandboxes", key=key)
        assert answer == 401 and json.loads(content)["code"] == 401
    assert daemon.host.shell(f"stat -c %a {daemon.host.state}/store.db").strip() in ("600", "644")
    assert daemon.host.shell(f"stat -c %a {daemon.host.state}").strip() == "700"


def test_an_image_that_is_missing_builds_no_template(daemon):
    before = daemon.footprint()["files"]
    failed = daemon.cubectl("template", "build", "bad", "--image", "missing.ext4", check=False)
    assert failed.returncode == 1 and "missing.ext4" in failed.stderr
    assert "bad" not in daemon.cubectl("template", "list").stdout
    assert daemon.footprint()["files"] == before


RESET = "python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x01234567)'"  # reboot(2), LINUX_REBOOT_CMD_RESTART


def test_a_template_whose_guest_stops_is_given_up(daemon):
    before = daemon.footprint()["files"]
    failed = daemon.cubectl("template", "build", "never", "--image", "base.ext4", "--ready-cmd", RESET, check=False)
    assert failed.returncode == 1 and "cubectl: " in failed.stderr
    assert "never" not in daemon.cubectl("template", "list").stdout
    assert daemon.footprint()["files"] == before


def test_an_image_without_an_agent_says_so_on_its_console(daemon):
    images = daemon.command[daemon.command.index("--image-dir") + 1]
    lab_images = f"{daemon.host.state}.images"
    daemon.host.shell(f"mkdir -p {lab_images} && cp --sparse=always {images}/base.ext4 {lab_images}/mute.ext4 && "
                      f"/usr/sbin/debugfs -w -R 'rm /usr/sbin/cube-agent' {lab_images}/mute.ext4")
    daemon.signal("TERM")
    daemon.start(images=lab_images)
    before = daemon.footprint()["files"]
    failed = daemon.cubectl("template", "build", "mute", "--image", "mute.ext4", check=False)
    assert failed.returncode == 1 and "cube-agent" in failed.stderr
    assert daemon.footprint()["files"] == before
    daemon.signal("TERM")
    daemon.start()
    daemon.host.shell(f"rm -r {lab_images}")


def test_a_clone_that_does_not_answer_is_not_handed_out(poolless):
    daemon = poolless
    daemon.cubectl("template", "build", "mute", "--image", "base.ext4", "--ready-cmd",
                   "rm /etc/hostname && mkfifo /etc/hostname")  # the agent waits for ever when it writes the name
    before = daemon.footprint()
    status, content = daemon.request("POST", "/v2/sandboxes", {"templateID": "mute"})
    error = json.loads(content)
    assert status == 500 and error["error_code"] == "sandbox_create_failed" and error["message"]
    assert json.loads(daemon.request("GET", "/v2/sandboxes")[1]) == []
    deadline = time.monotonic() + 20
    while daemon.footprint()["descriptors"] > before["descriptors"] + 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    daemon.cubectl("template", "delete", "mute")


def test_a_guest_that_resets_itself_is_gone(daemon, sandbox):
    sandbox.commands.run(f"sudo {RESET}", background=True)
    deadline = time.monotonic() + 20
    while sandbox.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert daemon.request("GET", f"/sandboxes/{sandbox.sandbox_id}")[0] == 404


def test_a_guest_cannot_reach_the_agents_control_port(daemon, sandbox):
    headers = [("E2b-Sandbox-Id", sandbox.sandbox_id), ("E2b-Sandbox-Port", "49983")]
    answer, _ = daemon.request("POST", "/init", {"accessToken": ""}, key=None, headers=headers)
    assert answer == 404


def test_envd_wants_its_token(daemon, sandbox):
    headers = [("E2b-Sandbox-Id", sandbox.sandbox_id), ("E2b-Sandbox-Port", "49983")]
    answer, content = daemon.request("POST", "/process.Process/List", {}, key=None, headers=headers)
    assert answer == 401 and json.loads(content)
