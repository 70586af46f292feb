"""The page of a catalogue: a table to sort and filter, and labels against labels.

Table and plots share one source of data, hence the selection.  Of the table only the rows in sight
are drawn, and of many points, while they move, a part.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emulators.picture import BLUE, ORANGE, VERMILION
from stellarfit.quality import Flag, names_of
from stellarfit.report.page import page_of
from stellarfit.survey.catalogue import ALIASES, BAD, alias

if TYPE_CHECKING:
    from astropy.table import Table

#: what a row is worth, with the colour and the marker of its point
QUALITIES = {"clean": (BLUE, "circle"), "flagged": (ORANGE, "triangle"), "bad": (VERMILION, "x")}
NO_FIT = "no fit"
#: axes that run backwards, as in a Hertzsprung-Russell diagram
BACKWARDS = ("teff", "logg", "TEFF", "LOGG")
#: rows from which WebGL pays: below, the plain canvas is as fast, and everywhere
MANY = 20_000
#: of both plots at first, where the catalogue has them
AXES = (("teff", "logg"), ("fe_h", "mg_fe"))

_FILTER = """
const d = source.data, word = text.value_input.toLowerCase(), values = d[label.value]
const [least, most] = [low.value ?? -Infinity, high.value ?? Infinity]
const bounded = low.value != null || high.value != null
const booleans = Array.from(d._name, (_, i) =>
  d._search[i].includes(word)
  && (quality.value == "all" || quality.value.split(", ").includes(d._quality[i]))
  && (flag.value == "any" || d._words[i].split(", ").includes(flag.value))
  && (!bounded || (values[i] >= least && values[i] <= most)))
rows.booleans = booleans
count.text = `${booleans.filter(Boolean).length} of ${booleans.length} rows`
"""
_CHOSEN = """
const {indices} = source.selected
chosen.indices = only.active && indices.length ? indices : null
"""
_AXIS = """
source.data[target] = source.data[this.value]
axis.axis_label = this.value
range.flipped = backwards.includes(this.value)
source.change.emit()
"""


def catalogue_page(table: Table, *, title: str, links: Sequence[str] = ()) -> str:
    """Return the HTML of a catalogue's page.

    Parameters
    ----------
    table : astropy.table.Table
        As :func:`stellarfit.fit_many` returns it, under its own names or a survey's.  Columns of
        arrays, and those whose names are more than letters, digits and underscores, are left out.
    title : str
    links : sequence of str, (n_row,), optional
        Where the name of each row leads, empty for nowhere.

    Raises
    ------
    ValueError
        For a table without rows, without flags, or without two columns of numbers.
    """
    shown = [n for n in table.colnames if re.fullmatch(r"[^\W_]\w*", n) and table[n].ndim == 1]
    numeric = [n for n in shown if table[n].dtype.kind == "f"]
    flags = column_of(table, "flags")
    if flags is None or len(numeric) < 2 or not len(table):
        lacks = ("rows" if not len(table) else "column 'flags'" if flags is None
                 else "two columns of numbers")
        raise ValueError(f"{title} is no catalogue, it has no {lacks}: expected what 'stellarfit "
                         "survey merge' or stellarfit.fit_many writes")
    data = {n: _values(table[n]) for n in shown}
    bits = np.ma.filled(table[flags], 0).astype(np.int64)
    data["_words"] = [", ".join(names_of(int(b))) for b in bits]
    data["_quality"] = [_quality(int(b)) for b in bits]
    name, file = (column_of(table, n) for n in ("name", "file"))
    data["_name"] = _texts(table, name) if name else [str(i) for i in range(len(table))]
    if file:  # one that could not be read has no name
        data["_name"] = [n or Path(f).name for n, f in zip(
            data["_name"], _texts(table, file), strict=True)]
    data["_search"] = [f"{a} {b}".lower() for a, b in zip(
        data["_name"], _texts(table, file) if file else data["_name"], strict=True)]
    data["_link"] = list(links) or [""] * len(table)
    counts = {q: data["_quality"].count(q) for q in (*QUALITIES, NO_FIT)}
    return page_of(
        "catalogue.html", f"{title} · stellarfit", [_layout(table, data, shown, numeric, flags)],
        name=title, linked=any(links), provenance=[(k, str(v)) for k, v in table.meta.items()],
        facts=[("rows", str(len(table))), *((q, str(c)) for q, c in counts.items() if c)])


def column_of(table: Table, name: str) -> str | None:
    """Return what a column is called in a catalogue, which may use a survey's names."""
    return next((c for s in (None, *ALIASES) if (c := alias(name, s)) in table.colnames), None)


def _quality(bits: int) -> str:
    names = names_of(bits)
    if Flag.NO_FIT & bits:
        return NO_FIT
    return "bad" if set(BAD) & set(names) else "flagged" if names else "clean"


def _texts(table: Table, name: str) -> list[str]:
    return [str(x) for x in np.ma.filled(table[name].astype(str), "")]


def _values(column: Any) -> Any:
    """Return a column as Bokeh takes it, numbers in half the space that the catalogue has."""
    kind = column.dtype.kind
    if kind == "f":
        with np.errstate(over="ignore"):  # a number beyond is infinite on the page
            return np.asarray(np.ma.filled(column, np.nan), dtype=np.float32)
    if kind in "iu" and np.abs(np.ma.filled(column, 0)).max() < 2**31:
        return np.asarray(np.ma.filled(column, 0), dtype=np.int32)
    return [str(x) for x in np.ma.filled(column.astype(str), "")]


def _layout(
    table: Table, data: dict[str, Any], shown: list[str], numeric: list[str], flags: str
) -> Any:
    """Return filters, plots and table, on one source."""
    from bokeh.layouts import column, row
    from bokeh.models import (
        BooleanFilter,
        CDSView,
        Checkbox,
        ColumnDataSource,
        CustomJS,
        IndexFilter,
        IntersectionFilter,
    )

    source = ColumnDataSource(data)
    rows, chosen = BooleanFilter(), IndexFilter()
    filters = _filters(source, rows, numeric)
    only = Checkbox(label="in the table only the selection", active=False, name="only")
    choose = CustomJS(args={"source": source, "chosen": chosen, "only": only}, code=_CHOSEN)
    only.js_on_change("active", choose)
    source.selected.js_on_change("indices", choose)
    plots = [_plot(source, rows, i, numeric, [column_of(table, n) for n in pair])
             for i, pair in enumerate(AXES)]
    below = _table(table, source, shown, flags, CDSView(
        filter=IntersectionFilter(operands=[rows, chosen])))
    return column(filters, row(*plots, sizing_mode="stretch_width"), only, below,
                  sizing_mode="stretch_width", name="catalogue")


def _filters(source: Any, rows: Any, numeric: list[str]) -> Any:
    """Return the row of widgets that say which rows are shown."""
    from bokeh.layouts import row
    from bokeh.models import CustomJS, Div, NumericInput, Select, TextInput

    present = sorted({w for words in source.data["_words"] for w in words.split(", ") if w})
    total = len(source.data["_name"])
    widgets = {
        "text": TextInput(title="name or file has", width=180, name="text"),
        "quality": Select(title="quality", value="all", width=150, options=[
            "all", "clean", "clean, flagged", "bad", NO_FIT]),
        "flag": Select(title="flag", value="any", options=["any", *present], width=220),
        "label": Select(title="column", value=numeric[0], options=numeric, width=130),
        "low": NumericInput(title="from", mode="float", width=90),
        "high": NumericInput(title="to", mode="float", width=90),
    }
    count = Div(text=f"{total} of {total} rows", align="end", name="count")
    apply = CustomJS(args={"source": source, "rows": rows, "count": count, **widgets},
                     code=_FILTER)
    for name, widget in widgets.items():  # a text says at every letter what it is
        widget.js_on_change("value_input" if name == "text" else "value", apply)
    return row(*widgets.values(), count, sizing_mode="stretch_width")


def _plot(
    source: Any, rows: Any, number: int, numeric: list[str], wanted: list[str | None]
) -> Any:
    """Return a plot of two labels and the widgets that choose them."""
    from bokeh.layouts import column, row
    from bokeh.models import (
        CDSView,
        CustomJS,
        GroupFilter,
        HoverTool,
        IntersectionFilter,
        Select,
    )
    from bokeh.plotting import figure

    first = [w if w in numeric else numeric[min(i, len(numeric) - 1)]
             for i, w in enumerate(wanted)]
    places = [f"_{axis}{number}" for axis in "xy"]
    for place, name in zip(places, first, strict=True):
        source.data[place] = source.data[name]
    count = len(source.data["_name"])
    made = figure(height=420, sizing_mode="stretch_width",
                  output_backend="webgl" if count > MANY else "canvas",
                  tools="pan,wheel_zoom,box_zoom,lasso_select,box_select,tap,reset,save",
                  active_drag="box_select", active_scroll="wheel_zoom", name=f"plot{number}")
    size = float(np.clip(60.0 / count**0.3, 3.0, 8.0))
    present = [q for q in QUALITIES if q in source.data["_quality"]] or list(QUALITIES)
    points = [made.scatter(
        *places, source=source, size=size, alpha=0.6, nonselection_alpha=0.06,
        color=QUALITIES[quality][0], marker=QUALITIES[quality][1], legend_label=quality,
        view=CDSView(filter=IntersectionFilter(
            operands=[rows, GroupFilter(column_name="_quality", group=quality)])),
    ) for quality in present]
    made.add_layout(made.legend[0], "above")
    made.legend.orientation = "horizontal"
    made.legend.click_policy = "hide"
    made.legend.border_line_color = None
    made.legend.padding = 2
    made.legend.label_text_font_size = "13px"
    made.add_tools(HoverTool(renderers=points, tooltips=[
        ("", "@_name"), ("x, y", f"@{places[0]}{{0.000}}, @{places[1]}{{0.000}}"),
        ("flags", "@_words")]))
    made.axis.axis_label_text_font_style = "normal"
    made.axis.axis_label_text_font_size = "14px"
    made.axis.major_label_text_font_size = "13px"
    made.toolbar.logo = None
    selects = []
    for axis, limits, place, name in zip((made.xaxis[0], made.yaxis[0]),
                                         (made.x_range, made.y_range), places, first, strict=True):
        axis.axis_label, limits.flipped = name, name in BACKWARDS
        select = Select(title=place[1], value=name, options=numeric, width=150)
        select.js_on_change("value", CustomJS(code=_AXIS, args={
            "source": source, "target": place, "axis": axis, "range": limits,
            "backwards": list(BACKWARDS)}))
        selects.append(select)
    return column(row(*selects), made, sizing_mode="stretch_width")


def _table(table: Table, source: Any, shown: list[str], flags: str, view: Any) -> Any:
    from bokeh.models import DataTable, HTMLTemplateFormatter, StringFormatter, TableColumn

    # <%- escapes, <%= would not
    linked = HTMLTemplateFormatter(template="""<% if (_link) { %><a href="<%- _link %>"
        target="_blank"><%- value %></a><% } else { %><%- value %><% } %>""")
    # html.escape: the title of a column is HTML
    columns = [TableColumn(field="_name", title="name", width=150, formatter=linked),
               TableColumn(field="_quality", title="quality", width=70),
               TableColumn(field="_words", title=flags, width=210)]
    # labels first, and what else is a number
    for name in sorted(set(shown) - {column_of(table, "name"), flags}, key=lambda n: (
            table[n].dtype.kind != "f", shown.index(n))):
        kind, title = table[name].dtype.kind, html.escape(_headed(table, name))
        columns.append(TableColumn(
            field=name, title=title, width=200 if kind in "US" else 12 + 8 * max(7, len(title)),
            formatter=_formatter(table[name]) if kind == "f" else StringFormatter()))
    return DataTable(source=source, view=view, columns=columns, row_height=26,
                     height=min(520, 70 + 26 * len(table)),
                     sizing_mode="stretch_width", autosize_mode="none", frozen_columns=1,
                     index_position=None, reorderable=False, name="rows",
                     stylesheets=[":host { --data-table-font-size: 13px; }"])


def _headed(table: Table, name: str) -> str:
    unit = str(table[name].unit or "").replace(" ", "")
    return f"{name} ({unit})" if unit and unit != "dex" else name


def _formatter(column: Any) -> Any:
    """Return how numbers of a column are written: with as many decimals as their size allows."""
    from bokeh.models import NumberFormatter

    values: NDArray[np.float64] = np.abs(np.ma.filled(column, np.nan).astype(float))
    finite = values[np.isfinite(values)]
    typical = float(np.median(finite)) if len(finite) else 1.0
    decimals = 0 if typical >= 1000 else 2 if typical >= 10 else 3 if typical >= 0.1 else 4
    return NumberFormatter(format="0." + "0" * decimals if decimals else "0", nan_format="",
                           text_align="right")
