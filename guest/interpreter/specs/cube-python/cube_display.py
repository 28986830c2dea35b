"""Representations for programs, beside those for people: a data frame's columns, a figure's data, lists and dicts."""

import datetime
import json
import math
import sys

from IPython.core.formatters import BaseFormatter, JSONFormatter
from traitlets import ObjectName, Unicode


def install(shell):
    formatters = shell.display_formatter.formatters
    for formatter in (DataFormatter, ChartFormatter, JsonFormatter):
        formatters[formatter.format_type.default_value] = formatter(parent=shell.display_formatter)
    _install_images()
    _install_charts()


def _is_instance(value, module: str, name: str) -> bool:
    """Whether it is one of a module's objects; a module nobody imported is not imported for the question."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


class DataFormatter(BaseFormatter):
    """pandas.DataFrame: its columns as lists."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict, str)

    def __call__(self, value):
        if not _is_instance(value, "pandas", "DataFrame"):
            return super().__call__(value)
        try:
            return {str(name): [plain(cell) for cell in column] for name, column in value.to_dict(orient="list").items()}
        except Exception:  # noqa: BLE001 the frame is shown in the other formats all the same
            return None


class ChartFormatter(BaseFormatter):
    """matplotlib's Figure: what was plotted."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = (dict, str)

    def __call__(self, value):
        if not _is_instance(value, "matplotlib.figure", "Figure"):
            return super().__call__(value)
        import cube_charts

        try:
            return plain(cube_charts.chart_of(value))
        except Exception:  # noqa: BLE001
            return None


class JsonFormatter(JSONFormatter):
    format_type = Unicode("application/json")

    def __call__(self, value):
        if isinstance(value, (dict, list)):
            try:
                return json.loads(json.dumps(value, allow_nan=False)), {"expanded": True}
            except (TypeError, ValueError, RecursionError):
                return None
        return super().__call__(value)


def plain(value):
    """A value JSON has."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of numpy's
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (datetime.date, datetime.datetime)):
        return None if value != value else value.isoformat()  # pandas.NaT
    return str(value)


def _install_images():
    """PIL: an image shown or saved to a file appears among the results. There is no screen it could appear on."""

    def patch(image_module):
        from IPython.display import display

        save = image_module.Image.save

        def save_and_display(image, fp, format=None, **options):
            save(image, fp, format, **options)
            if isinstance(fp, str):
                display(image)

        image_module.Image.save = save_and_display
        image_module.Image.show = lambda image, *_, **__: display(image)

    _when_imported("PIL.Image", patch)


def _install_charts():
    def remember_boxes(module):
        import cube_charts

        cube_charts.remember_boxes(module)

    _when_imported("matplotlib.axes", remember_boxes)


def _when_imported(name: str, action):
    """Calls action(module) when the module is first imported, rather than importing it for everybody now."""
    import importlib.abc
    import importlib.util

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname, path, target=None):
            if fullname != name:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            if spec is None or spec.loader is None:
                return spec
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                action(module)

            spec.loader.exec_module = exec_module
            return spec

    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, Finder())
