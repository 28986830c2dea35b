"""What a matplotlib figure shows, as data: the kind of chart, its axes, and the points, bars, slices or boxes in it."""

import re
import weakref

from matplotlib import category, dates
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer
from matplotlib.patches import Wedge

_boxes: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_lying: weakref.WeakSet = weakref.WeakSet()  # axes whose boxes lie on their side
_UNIT = re.compile(r"\s\(([^()]+)\)|\[([^\[\]]+)\]")


def remember_boxes(axes_module):
    """A box plot is drawn as mere lines. Its numbers are taken when they are given to matplotlib."""
    draw = axes_module.Axes.bxp

    def bxp(axes, bxpstats, *arguments, **options):
        drawn = draw(axes, bxpstats, *arguments, **options)
        _boxes.setdefault(axes, []).extend(bxpstats)
        # matplotlib 3.10 renames the option.
        if options.get("orientation") == "horizontal" or options.get("vert") is False:
            _lying.add(axes)
        return drawn

    axes_module.Axes.bxp = bxp


def chart_of(figure) -> dict | None:
    """None for a figure in which nothing is drawn yet."""
    if not any(axes.has_data() for axes in figure.axes):
        return None
    charts = [_chart(axes) for axes in figure.axes]
    title = figure._suptitle.get_text() if figure._suptitle is not None else None
    if len(charts) == 1:
        return charts[0] | {"title": charts[0]["title"] or title}
    return {"type": "superchart", "title": title, "elements": charts}


def _chart(axes) -> dict:
    slices = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    clouds = [collection for collection in axes.collections if isinstance(collection, PathCollection)]
    # Lines across the whole axes (axhline and its like) are not measured in its data, and are no data.
    lines = [line for line in axes.lines if line.get_transform() == axes.transData]
    chart = {"title": axes.get_title() or None}
    if slices:
        return chart | {"type": "pie", "elements": [_slice(patch) for patch in slices]}
    if _boxes.get(axes) and axes.lines:
        boxes = [_box(n, box) for n, box in enumerate(_boxes[axes], 1)]
        return chart | _labels(axes, axes in _lying) | {"type": "box_and_whisker", "elements": boxes}
    if bars:
        elements = [bar for n, group in enumerate(bars) for bar in _bars(axes, n, group)]
        return chart | _labels(axes, _lies(bars[0])) | {"type": "bar", "elements": elements}
    chart |= _labels(axes)
    if lines:
        elements = [_points(axes, _name(line, f"Line {n}"), *_line(axes, line)) for n, line in enumerate(lines)]
        return chart | _ticks(axes) | {"type": "line", "elements": elements}
    if clouds:
        elements = [_points(axes, _name(cloud, f"Scatter {n}"), *cloud.get_offsets().T) for n, cloud in enumerate(clouds)]
        return chart | _ticks(axes) | {"type": "scatter", "elements": elements}
    return chart | {"type": "unknown", "elements": []}


def _name(artist, otherwise: str) -> str:
    label = str(artist.get_label())
    return otherwise if label.startswith("_") else label


def _labels(axes, lying: bool = False) -> dict:
    """What lies on its side is told as if it stood: x is where its names are."""
    labels = {}
    for name, axis in zip("yx" if lying else "xy", (axes.xaxis, axes.yaxis)):
        text = axis.get_label().get_text()
        unit = _UNIT.search(text)
        labels |= {f"{name}_label": text or None, f"{name}_unit": unit[1] or unit[2] if unit else None}
    return labels


def _ticks(axes) -> dict:
    ticks = {}
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        ticks |= {
            f"{name}_ticks": _values(axis, axis.get_majorticklocs()),
            f"{name}_tick_labels": [label.get_text() for label in axis.get_majorticklabels()],
            f"{name}_scale": _scale(axis),
        }
    return ticks


def _scale(axis) -> str:
    locator = axis.get_major_locator()
    if isinstance(locator, dates.DateLocator):
        return "datetime"
    if isinstance(locator, category.StrCategoryLocator):
        return "categorical"
    return axis.get_scale()


def _values(axis, numbers) -> list:
    if _scale(axis) == "datetime":
        return [dates.num2date(number).isoformat() for number in numbers]
    return [float(number) for number in numbers]


def _line(axes, line):
    # A categorical axis counts its categories; their names are what was plotted.
    return [
        line.get_data(orig=_scale(axis) == "categorical")[index] for index, axis in enumerate((axes.xaxis, axes.yaxis))
    ]


def _points(axes, label: str, xs, ys) -> dict:
    columns = [
        [str(value) for value in values] if _scale(axis) == "categorical" else _values(axis, values)
        for axis, values in ((axes.xaxis, xs), (axes.yaxis, ys))
    ]
    return {"label": label, "points": [list(point) for point in zip(*columns)]}


def _lies(group) -> bool:
    return group.orientation == "horizontal"


def _bars(axes, index: int, group) -> list[dict]:
    across = _lies(group)
    axis = axes.yaxis if across else axes.xaxis
    names = {
        round(float(place), 6): label.get_text()
        for place, label in zip(axis.get_majorticklocs(), axis.get_majorticklabels())
    }
    bars = []
    for bar in group:
        start, length = (bar.get_y(), bar.get_height()) if across else (bar.get_x(), bar.get_width())
        middle = round(float(start + length / 2), 6)
        value = bar.get_width() if across else bar.get_height()
        bars.append({"label": names.get(middle) or f"{middle:g}", "value": value, "group": _name(group, f"Group {index}")})
    return bars


def _slice(patch) -> dict:
    # matplotlib computes the angles in single precision.
    angle, radius = round(float(patch.theta2 - patch.theta1), 3), round(float(patch.r), 6)
    return {"label": _name(patch, ""), "angle": angle, "radius": radius}


def _box(number: int, box: dict) -> dict:
    return {
        "label": str(box.get("label") or number),
        "min": box["whislo"],
        "first_quartile": box["q1"],
        "median": box["med"],
        "third_quartile": box["q3"],
        "max": box["whishi"],
        "outliers": list(box.get("fliers", ())),
    }
