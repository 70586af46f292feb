"""The correlations of a fit's parameters as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stellarfit.report.page import plain

#: blue, white, vermilion: signs stay apart for the colour-blind
PALETTE = ("#0072B2", "#4C9BC9", "#8FC1DF", "#C8E0EF", "#FFFFFF", "#F6D9C8", "#EDB18F", "#E38755",
           "#D55E00")


def correlation_map(names: Sequence[str], correlation: NDArray[np.float64]) -> Any:
    """Return a Bokeh figure of correlations.

    Parameters
    ----------
    names : sequence of str
        Of the parameters.
    correlation : (n_free, n_free)
        NaN where it is not known, which is left white.
    """
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.plotting import figure
    from bokeh.transform import linear_cmap

    names = [plain(n) for n in names]
    rows, columns = np.indices(correlation.shape).reshape(2, -1)
    values = correlation.ravel()
    source = ColumnDataSource({
        "row": [names[i] for i in rows], "column": [names[i] for i in columns], "value": values,
        "text": [f"{round(100 * v)}".replace("-", "−") if np.isfinite(v) else ""
                 for v in values],
        "ink": ["#FFFFFF" if abs(v) > 0.8 else "#222222" for v in values]})
    side = int(np.clip(110 + 36 * len(names), 260, 660))
    made = figure(x_range=names, y_range=names[::-1], width=side, height=side, name="correlation",
                  tools="save", x_axis_location="above", title="correlation in %")
    cells = made.rect("column", "row", 1, 1, source=source, line_color="#FFFFFF", fill_color=(
        linear_cmap("value", PALETTE, -1.0, 1.0, nan_color="#FFFFFF")))
    if len(names) <= 20:
        made.text("column", "row", "text", source=source, text_align="center", text_color="ink",
                  text_baseline="middle", text_font_size="11px")
    made.add_tools(HoverTool(renderers=[cells], tooltips=[
        ("", "@row, @column"), ("correlation", "@value{0.000}")]))
    made.xaxis.major_label_orientation = np.pi / 3
    made.axis.major_label_text_font_size = "13px"
    made.axis.major_tick_line_color = None
    made.grid.visible = False
    made.toolbar.logo = None
    return made
