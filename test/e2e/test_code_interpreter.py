"""run_code of E2B's code interpreter SDK."""

import time

import pytest
from e2b import TimeoutException
from e2b_code_interpreter import Sandbox
from e2b_code_interpreter.charts import BarChart, LineChart, SuperChart

from conftest import LONG


@pytest.fixture(scope="module")
def interpreter(code_interpreter):
    with Sandbox.create(timeout=LONG) as box:
        yield box


def printed(execution):
    assert execution.error is None
    return "".join(execution.logs.stdout)


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


def test_contexts_are_listed_restarted_and_removed(interpreter):
    context = interpreter.create_code_context(language="python", cwd="/root")
    listed = interpreter.list_code_contexts()
    assert (listed[-1].id, listed[-1].language, listed[-1].cwd) == (context.id, "python", "/root")
    assert {"python", "javascript"} <= {entry.language for entry in listed}
    interpreter.run_code("mine = 1", context=context)
    interpreter.restart_code_context(context)
    assert interpreter.run_code("mine", context=context).error.value == "name 'mine' is not defined"
    interpreter.remove_code_context(context)
    assert context.id not in [entry.id for entry in interpreter.list_code_contexts()]


def test_bash_and_environment(interpreter):
    assert printed(interpreter.run_code("echo $((6 * 7))", language="bash")) == "42\n"
    assert interpreter.run_code("import os; os.environ['WHO']", envs={"WHO": "me"}).text == "me"


# A cell that prints, one that has a value, what the value is called, one that asks for the variable WHO.
LANGUAGES = {
    "python": ("print('Hello')", "6 * 7", "42", "import os; os.getenv('WHO')", "{}"),
    "javascript": ("console.log('Hello')", "6 * 7", "42", "process.env.WHO", "{}"),
    "typescript": ("const word: string = 'Hello'; console.log(word)", "6 * 7", "42", "process.env.WHO", "{}"),
    "r": ("cat('Hello\\n')", "6 * 7", "[1] 42", "Sys.getenv('WHO')", '[1] "{}"'),
    "java": ('System.out.println("Hello")', "6 * 7", "42", 'System.getProperty("WHO")', "{}"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_print_have_values_and_know_the_variables(code_interpreter, language):
    hello, product, value, who, shape = LANGUAGES[language]
    with Sandbox.create(envs={"WHO": "everybody"}, timeout=LONG) as box:
        def text(code, **options):
            execution = box.run_code(code, language=language, **options)
            assert execution.error is None
            return execution.results[0].text.strip()

        assert printed(box.run_code(hello, language=language)) == "Hello\n"
        assert text(product) == value
        assert text(who) == shape.format("everybody")
        assert text(who, envs={"WHO": "me"}) == shape.format("me")
        assert text(who) == shape.format("everybody")


def test_figures_are_images_and_charts(interpreter):
    execution = interpreter.run_code("import matplotlib.pyplot as plt\n"
                                     "plt.plot([1, 2, 3], label='a'); plt.xlabel('time (s)'); plt.show()\n"
                                     "plt.bar(['A', 'B'], [1, 2]); plt.show()\n"
                                     "plt.subplots(1, 2)[1][0].plot([1]); plt.show()")
    assert execution.error is None
    line, bar, both = execution.results
    assert line.png and not line.extra
    assert isinstance(line.chart, LineChart) and line.chart.x_unit == "s"
    assert line.chart.elements[0].points == [(0, 1), (1, 2), (2, 3)]
    assert isinstance(bar.chart, BarChart) and [bar.value for bar in bar.chart.elements] == [1, 2]
    assert isinstance(both.chart, SuperChart) and len(both.chart.elements) == 2


def test_a_data_frame_is_its_columns(interpreter):
    assert interpreter.run_code("import pandas as pd; pd.DataFrame({'a': [1, 2]})").results[0].data == {"a": [1, 2]}


def test_a_client_that_gives_up_interrupts_its_cell(interpreter):
    interpreter.run_code("kept = 1")
    with pytest.raises(TimeoutException):
        interpreter.run_code("import time; time.sleep(600)", timeout=2)
    begun = time.monotonic()
    assert interpreter.run_code("kept").text == "1"
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("process", ["uvicorn main:app", "cube-python/kernel.py"])
def test_what_is_killed_is_started_again(code_interpreter, process):
    with Sandbox.create(timeout=LONG) as box:
        before = box.run_code("kept = 1; import os; os.getppid()").text
        box.commands.run(f"pgrep -f '^([^ ]*/)?python3 .*{process}' | xargs kill -9", user="root")

        def again():
            try:
                return box.run_code("kept").error
            except Exception:  # noqa: BLE001 the port is closed, or the stream was cut
                return None

        deadline = time.monotonic() + 300
        # A kernel that is still dying may be given the cell: that one ends with an error of its own.
        while (error := again()) is None or error.name == "UnexpectedEndOfExecution":
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert error.name == "NameError"
        after = box.run_code("import os; os.getppid()").text
        assert (before != after) == process.startswith("uvicorn")


def test_clones_draw_different_random_numbers(daemon):
    draws = set()
    for _ in range(2):
        with Sandbox.create() as box:
            draws.add(box.run_code("import random; random.random()").text)
    assert len(draws) == 2
