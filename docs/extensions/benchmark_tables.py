"""Tables and curves of ``docs/benchmarks.md``, from ``benchmarks/results`` alone.

A directive names a file (or a pattern of files) of results and says which of its numbers to show::

    ```{benchmark} new-window.json
    :command: python -m benchmarks.new_window GRID RUNS
    :each: measures
    start | start from
    mae | MAE | .4f
    ```

A line is the way to a number (steps joined by ``::``), its name, and how it is written
(Python's format); a way that ends with ``?`` may lead nowhere: nothing is written then.  With
``each`` every entry found there is a row, ``KEY`` the name of the entry; files of a pattern are
rows as well.  Without, every number is a row.  ``curve`` draws one column against another on
logarithmic axes, a curve for every value of a third; ``bars: TITLE: NAME; NAME`` draws some
columns as bars, a group of them for every row, which the columns before them name.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

#: Okabe & Ito's, which the colour-blind tell apart
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def at(data: Any, way: str) -> Any:
    """Return what lies at a way such as ``pulls::teff::bias``."""
    for step in way.split("::") if way else ():
        data = data[int(step)] if isinstance(data, list) else data[step]
    return data


def cell(row: Any, way: str, spec: str) -> str:
    """Return what lies at a way as a cell of a table."""
    try:
        return written(at(row, way.removesuffix("?")), spec)
    except KeyError:
        if way.endswith("?"):
            return ""
        raise


def find(row: Any, way: str) -> float:
    """Return the number that lies at a way, NaN where there is none."""
    try:
        return float(at(row, way))
    except KeyError:
        return math.nan


def in_order(path: Path) -> list[tuple[int, str]]:
    """Return what sorts files by their names, numbers by their size."""
    return [(int(word), "") if word.isdigit() else (0, word)
            for word in re.split(r"(\d+)", path.name)]


def entries(data: Any) -> Iterator[tuple[str, Any]]:
    """Return names and values of what a list or a mapping holds."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data)
    return ((str(k), v) for k, v in pairs)


def written(value: Any, spec: str) -> str:
    """Return a number as a cell of a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(written(v, spec) for v in value)
    return (format(value, spec) if not isinstance(value, str) else value).replace("|", r"\|")


class Benchmark(SphinxDirective):
    """A table of one file of results, with the command that makes it."""

    required_arguments = 1
    has_content = True
    option_spec = dict.fromkeys(("command", "each", "curve", "bars"), directives.unchanged)

    def run(self) -> list[nodes.Node]:
        """Return the command, the table and perhaps a picture."""
        paths = sorted(RESULTS.glob(self.arguments[0]), key=in_order)
        if not paths:
            raise self.error(f"no results {self.arguments[0]!r} in {RESULTS}")
        for path in paths:
            self.env.note_dependency(str(path))
        columns = [[part.strip() for part in (line + "||").split("|")[:3]]
                   for line in self.content if line.strip()]
        held = [json.loads(path.read_text()) for path in paths]
        data = held if "*" in self.arguments[0] else held[0]
        try:
            lines = (self._rows(data, columns) if "*" in self.arguments[0] or
                     "each" in self.options else self._list(data, columns))
        except (KeyError, IndexError, ValueError) as error:
            raise self.error(f"{self.arguments[0]} has no {error}") from error
        if "command" in self.options:
            lines = ["```text", self.options["command"], "```", "", *lines]
        box = nodes.container(classes=["benchmark"])
        self.state.nested_parse(StringList(lines, source=str(paths[0])), 0, box)
        for kind, draw in (("curve", self._curves), ("bars", self._bars)):
            if kind in self.options:
                picture = draw(list(entries(at(data, self.options.get("each") or ""))), columns)
                box += nodes.image(uri=self._saved(picture, kind),
                                   alt=f"{self.arguments[0]}, drawn")
        return [box]

    def _rows(self, data: Any, columns: list[list[str]]) -> list[str]:
        found = list(entries(at(data, self.options.get("each") or "")))
        return ["| " + " | ".join(name for _, name, _ in columns) + " |",
                "|" + "---|" * len(columns),
                *("| " + " | ".join(key if way == "KEY" else cell(row, way, spec)
                                    for way, _, spec in columns) + " |" for key, row in found)]

    def _list(self, data: Any, columns: list[list[str]]) -> list[str]:
        return ["| | |", "|---|---|",
                *(f"| {name} | {cell(data, way, spec)} |" for way, name, spec in columns)]

    def _curves(self, rows: list[tuple[str, Any]], columns: list[list[str]]) -> Any:
        """Return a figure of the columns that `curve` names."""
        from matplotlib.figure import Figure

        x, y, which = self.options["curve"].split()
        names = {way: name for way, name, _ in columns}
        curves = defaultdict(list)
        for _, row in rows:
            curves[at(row, which)].append((at(row, x), at(row, y)))
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axis = figure.subplots()
        for (name, points), marker in zip(curves.items(), cycle("osD^vPX*h"), strict=False):
            axis.plot(*zip(*sorted(points), strict=True), marker=marker, label=name)
        axis.set(xscale="log", yscale="log", xlabel=names[x], ylabel=names[y])
        axis.grid(alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
        return figure

    def _bars(self, rows: list[tuple[str, Any]], columns: list[list[str]]) -> Any:
        """Return a figure of the columns that `bars` names."""
        from matplotlib.figure import Figure

        title, _, names = self.options["bars"].partition(":")
        chosen = [name.strip() for name in names.split(";")]
        ways = {name: way.removesuffix("?") for way, name, _ in columns}
        heads = list(ways)[:list(ways).index(chosen[0])]
        figure = Figure(figsize=(7, 0.6 + 0.22 * len(rows) * (len(chosen) + 1)),
                        layout="constrained")
        axis = figure.subplots()
        place = np.arange(len(rows), dtype=float)
        thick = 0.85 / len(chosen)
        for k, (name, colour) in enumerate(zip(chosen, cycle(COLOURS), strict=False)):
            values = [find(row, ways[name]) for _, row in rows]
            bars = axis.barh(place + k * thick, values, thick, color=colour, label=name)
            axis.bar_label(bars, [f"{v:.3g}" if np.isfinite(v) else "" for v in values],
                           padding=3, fontsize="small")
        axis.set_yticks(place + 0.5 * (len(chosen) - 1) * thick, [", ".join(
            key if ways[h] == "KEY" else f"{at(row, ways[h])} {h}" for h in heads)
            for key, row in rows])
        if title.startswith("times"):
            axis.axvline(1.0, color="black", linestyle="dotted")
        axis.invert_yaxis()
        axis.margins(x=0.1)
        axis.set_xlabel(title.strip())
        if len(chosen) > 1:
            figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
        return figure

    def _saved(self, figure: Any, kind: str) -> str:
        """Return where a picture of this table is."""
        what = self.options.get("each") or "all"
        name = re.sub(r"[^\w.-]", "-", f"{self.arguments[0].split('/')[0]}-{what}-{kind}.png")
        path = Path(self.env.srcdir) / "_build" / name
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=120)
        return f"/{path.relative_to(self.env.srcdir)}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directive."""
    app.add_directive("benchmark", Benchmark)
    return {"parallel_read_safe": True}
