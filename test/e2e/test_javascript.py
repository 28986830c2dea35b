"""Runs sdk.test.mjs against the same daemon with the packages of npm."""

import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).parent


def test_javascript_sdks(code_interpreter, tmp_path):
    modules = subprocess.run([HERE.parents[1] / "tools/sdk", "npm"], stdout=subprocess.PIPE, text=True,
                             check=True).stdout.strip()
    # Node looks for packages beside the file that imports them.
    script = tmp_path / "sdk.test.mjs"
    script.write_text((HERE / "sdk.test.mjs").read_text())
    (tmp_path / "node_modules").symlink_to(f"{modules}/node_modules")
    done = subprocess.run(["node", "--test", str(script)], env=dict(os.environ), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == 0, done.stdout
