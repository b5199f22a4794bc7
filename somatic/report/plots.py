"""Plots as SVG that takes the colours of the page it stands in.

matplotlib, because its SVG is small and static. A page with plotly carries 4 MB of JavaScript before the first point,
and shows nothing in a mail or a viewer of files that runs none.
"""

import functools
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from somatic.errors import typed_line

Values = npt.NDArray[np.float64]

# Stand in the SVG for a colour that the page chooses, by day and by night.
_INK, _BAR, _MARK = "#010203", "#040506", "#070809"
_OF_THE_PAGE = {_INK: "var(--ink)", _BAR: "var(--bar)", _MARK: "var(--mark)"}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}
_MARGIN_LEFT_IN, _MARGIN_BOTTOM_IN = 0.62, 0.4
_BINS = 60
_FEWEST_BINS = 10
_FEW = 2000
"""So many points can be drawn one by one."""
_ROUNDING = 1e-9
"""Values that differ by less than this share of the largest are equal but for rounding."""
_EXACT = 2.0**52
"""Whole numbers below have halves between them."""
_UNITS_OF_TIME = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def _or_why_not(draw: Callable[..., Markup]) -> Callable[..., Markup]:
    """Have a plot that cannot be drawn cost its page nothing else, and say there why."""

    @functools.wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> Markup:
        try:
            with np.errstate(all="ignore"):
                return draw(*arguments, **options)
        except Exception as error:
            return Markup('<p class="quiet">This plot could not be drawn: {}.</p>').format(typed_line(error))

    return drawn


@_or_why_not
def histogram(
    values: Values, name: str, unit: str, marks: tuple[float, float] | None, highlight: float | None = None
) -> Markup:
    """Histogram of a feature, its marks as dashed lines.

    Parameters
    ----------
    values : (n,) float
        Finite.
    name, unit : str
        Of the feature.
    marks : (float, float) or None
        `somatic.results.flags.marks`.
    highlight : float, optional
        A value that a line shows, that of one cell.
    """
    with _axes(f"Histogram of {name}", (3.3, 1.7)) as (ax, done):
        n_bins = int(np.clip(np.sqrt(len(values)), _FEWEST_BINS, _BINS))
        ax.hist(values, bins=_edges(values, n_bins).tolist(), color=_BAR)
        for mark in marks or ():
            ax.axvline(mark, color=_MARK, linestyle="--", linewidth=1)
        if highlight is not None:
            ax.axvline(highlight, color=_MARK, linewidth=2)
        ax.set(xlabel=label(name, unit), ylabel="cells")
        ax.margins(x=0.02)
    return done[0]


@_or_why_not
def density(x: Values, y: Values, x_label: str, y_label: str, size: tuple[float, float] = (3.3, 2.4)) -> Markup:
    """One feature against another: points where they are few, else how many lie in each of 60 x 60 fields.

    Parameters
    ----------
    x, y : (n,) float
        NaN where there is no value.
    x_label, y_label : str
        What is written at the axes.
    """
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    with _axes(f"{y_label} against {x_label}", size) as (ax, done):
        if len(x) <= _FEW:
            ax.plot(x, y, ".", color=_BAR, markersize=4)
        else:
            # Drawn as an image, or the fields would be the larger part of the page.
            ax.hist2d(x, y, bins=[_edges(x, _BINS), _edges(y, _BINS)], norm=LogNorm(), cmap="viridis", rasterized=True)
        ax.set(xlabel=x_label, ylabel=y_label)
    return done[0]


@_or_why_not
def stored_over_time(seconds: Values) -> Markup:
    """How many cells were stored by when, of seconds since the first."""
    unit, of_it_s = next((unit, s) for unit, s in _UNITS_OF_TIME if s == 1 or seconds.max() > 2 * s)
    with _axes("Cells stored over time", (6.8, 1.9)) as (ax, done):
        counts, edges = np.histogram(seconds / of_it_s, bins=200)
        ax.stairs(np.cumsum(counts), edges, fill=True, color=_BAR)
        ax.set(xlabel=f"{unit} since the first", ylabel="cells stored")
    return done[0]


def label(name: str, unit: str) -> str:
    """Name of a feature with its unit."""
    return (
        f"{name} ({unit.replace('um', 'µm').replace('^3', '³').replace('^2', '²')})" if unit not in ("", "1") else name
    )


def _edges(values: Values, n_bins: int) -> Values:
    """Edges of about so many bins; of whole numbers, each bin holds as many of them as the others."""
    low, high = values.min(), values.max()
    largest = max(abs(low), abs(high))
    if largest < _EXACT and (values == np.rint(values)).all():
        width = max(1, np.ceil((high - low) / n_bins))
        return np.arange(low - 0.5, high + width, width)
    if high - low < _ROUNDING * largest:
        # There is no room for bins between them: one holds them all, with an empty one to each side.
        return np.linspace(low - 0.01 * largest, high + 0.01 * largest, 4)
    return np.histogram_bin_edges(values, n_bins)


@contextmanager
def _axes(title: str, size: tuple[float, float]) -> Iterator[tuple[Axes, list[Markup]]]:
    """Axes to draw on, and a list that holds the SVG afterwards."""
    done: list[Markup] = []
    # The salt keeps the ids of the plots of a page apart, and the same from run to run.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": title}):  # type: ignore[arg-type]
        width, height = size
        figure = Figure(figsize=size)
        # Plain margins, since a layout that looks at every text takes half of the time of a plot.
        left, bottom = _MARGIN_LEFT_IN / width, _MARGIN_BOTTOM_IN / height
        yield figure.add_axes((left, bottom, 0.97 - left, 0.95 - bottom)), done
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    done.append(_inline(out.getvalue(), title))


def _inline(svg: str, title: str) -> Markup:
    """An SVG file as an element of a page, with what it shows said to who cannot see it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)
    for colour, name in _OF_THE_PAGE.items():
        svg = svg.replace(colour, name)
    # matplotlib has escaped every text in it.
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))
