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


def test_a_template_that_never_gets_ready_is_given_up(daemon):
    before = daemon.footprint()["files"]
    failed = daemon.cubectl("template", "build", "never", "--image", "base.ext4", "--ready-cmd", "kill -9 1; reboot -f",
                            check=False)
    assert failed.returncode == 1
    assert "never" not in daemon.cubectl("template", "list").stdout
    assert daemon.footprint()["files"] == before


def test_a_guest_that_panics_is_gone(daemon, sandbox):
    sandbox.commands.run("sudo sh -c 'echo c > /proc/sysrq-trigger'", background=True)
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
