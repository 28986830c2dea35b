"""What the interpreter asks of a running Python kernel (see languages.py). The user's names stay untouched."""

import os
import sys

_pushed: list[dict[str, str | None]] = []


def _restore(variables: dict[str, str | None]):
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def set_environment(variables: dict[str, str], removed: list[str]):
    _restore(dict.fromkeys(removed))
    os.environ.update(variables)


def push_environment(variables: dict[str, str]):
    _pushed.append({name: os.environ.get(name) for name in variables})
    os.environ.update(variables)


def pop_environment():
    if _pushed:
        _restore(_pushed.pop())


def reseed():
    """Clones of one machine must not draw the same numbers."""
    if "random" in sys.modules:
        sys.modules["random"].seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "_ssl" in sys.modules:
        sys.modules["_ssl"].RAND_add(os.urandom(64), 64.0)
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def warm_up():
    """Has the modules of common first cells in memory, and their caches (fonts, formatters, tracebacks) filled."""
    import io

    from IPython import get_ipython

    try:
        raise ValueError
    except ValueError:
        get_ipython().InteractiveTB.text(*sys.exc_info())
    try:
        import matplotlib.pyplot as pyplot
        import pandas
    except ImportError:
        return
    pandas.DataFrame({"a": [1]})._repr_html_()
    figure = pyplot.figure()
    figure.add_subplot().plot([0, 1])
    figure.savefig(io.BytesIO(), format="png")
    pyplot.close(figure)
