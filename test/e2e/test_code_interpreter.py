"""run_code of E2B's code interpreter SDK."""

import pytest
from e2b_code_interpreter import Sandbox


@pytest.fixture(scope="module")
def interpreter(code_interpreter):
    with Sandbox.create() as box:
        yield box


def test_output_result_and_error(interpreter):
    execution = interpreter.run_code("import platform, sys; print('Hello from', platform.release())\n"
                                     "print('oops', file=sys.stderr)\n6 * 7")
    assert "".join(execution.logs.stdout).startswith("Hello from 6.12")
    assert "".join(execution.logs.stderr) == "oops\n"
    assert execution.text == "42" and execution.error is None
    failed = interpreter.run_code("1 / 0")
    assert failed.error.name == "ZeroDivisionError" and "division" in failed.error.value


def test_variables_live_on_and_contexts_are_apart(interpreter):
    interpreter.run_code("x = 1")
    assert interpreter.run_code("x + 1").text == "2"
    context = interpreter.create_code_context(cwd="/tmp")
    assert interpreter.run_code("x", context=context).error.name == "NameError"
    assert interpreter.run_code("import os; os.getcwd()", context=context).text == "/tmp"


def test_bash_and_environment(interpreter):
    assert "".join(interpreter.run_code("echo $((6 * 7))", language="bash").logs.stdout) == "42\n"
    assert interpreter.run_code("import os; os.environ['WHO']", envs={"WHO": "me"}).text == "me"


def test_a_figure_is_a_png(interpreter):
    execution = interpreter.run_code("import matplotlib.pyplot as plt; plt.plot([1, 2, 3]); plt.show()")
    assert execution.error is None and execution.results[0].png


def test_clones_draw_different_random_numbers(daemon):
    draws = set()
    for _ in range(2):
        with Sandbox.create() as box:
            draws.add(box.run_code("import random; random.random()").text)
    assert len(draws) == 2
