"""The figures of a spectrum: names of lines, flux and model, residuals, all on one wavelength axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.picture import BLUE, GREY, INK, VERMILION
from stellarfit.identification import Identification, identify, seen_width
from stellarfit.report.page import plain
from stellarfit.result import ArmFit, FitResult

Array = NDArray[np.float64]
#: what is drawn, in either unit
CURVES = ("flux", "unused", "model", "continuum", "residual")
UNITS = ("normalised", "observed")
#: pixels between the names of lines, and the width that a page is expected to have
ROOM, WIDTH = 14, 1200

# Every curve is in the source twice, once in each unit; the toggle says which is drawn.
_TOGGLE = """
const unit = units[toggle.active]
for (const r of renderers) r.glyph.y = {field: `${r.tags[0]}_${unit}`}
for (const [y, axis, limits, titles] of panels) {
  const [start, end] = limits[unit]
  y.setv({start, end, reset_start: start, reset_end: end})
  axis.axis_label = titles[unit]
}
"""
# The deepest lines have their names shown, and others as far as there is room beside them.
_NAMES = """
const x = source.data.x, shown = []
const room = pixels * (range.end - range.start) / (figure.inner_width || 1200)
for (let i = 0; i < x.length; i++)
  if (x[i] > range.start && x[i] < range.end && shown.every(k => Math.abs(x[k] - x[i]) > room))
    shown.push(i)
names.indices = shown
"""


def spectrum_figures(result: FitResult) -> Any:
    """Return a Bokeh layout with the arms of a fit, each in a tab of its own."""
    from bokeh.layouts import column
    from bokeh.models import CustomJS, RadioButtonGroup, TabPanel, Tabs

    toggle = RadioButtonGroup(labels=["normalised", "as observed"], active=0, name="continuum")
    resolutions = result.provenance.get("resolution", [])
    panels: list[Any] = []
    renderers: list[Any] = []
    figures = []
    for i, arm in enumerate(result.by_arm()):
        resolution = resolutions[i] if i < len(resolutions) else 1e5
        lines = identify(arm, result.labels, fwhm=seen_width(result.labels, resolution))
        figures.append(_arm(arm, lines, panels, renderers))
    toggle.js_on_change("active", CustomJS(args={
        "toggle": toggle, "units": UNITS, "panels": panels, "renderers": renderers}, code=_TOGGLE))
    shown = figures[0] if len(figures) == 1 else Tabs(sizing_mode="stretch_width", tabs=[
        TabPanel(child=f, title=plain(name)) for f, name in zip(figures, result.arms, strict=True)])
    return column(toggle, shown, sizing_mode="stretch_width", name="spectrum")


def _arm(
    arm: ArmFit, lines: list[Identification], panels: list[Any], renderers: list[Any]
) -> Any:
    """Return the figures of one arm; add what the toggle changes to the lists."""
    from bokeh.layouts import column
    from bokeh.models import ColumnDataSource, HoverTool, Range1d

    curves = _curves(arm)
    source = ColumnDataSource({"x": arm.wavelength, **{
        f"{name}_{unit}": values.astype(np.float32)
        for unit in UNITS for name, values in curves[unit].items()}})
    x = arm.wavelength[arm.used] if arm.used.any() else arm.wavelength
    margin = 0.005 * (x[-1] - x[0])
    x_range = Range1d(x[0] - margin, x[-1] + margin, bounds=(
        arm.wavelength[0] - 10 * margin, arm.wavelength[-1] + 10 * margin))
    above = _names(lines, x_range)
    flux = _figure(x_range, 380)
    residual = _figure(x_range, 190)
    residual.xaxis.axis_label = f"wavelength in {arm.spectrum.medium} (Å)"
    flux.xaxis.visible = False
    for figure in (flux, residual):
        _shade(figure, arm)
    flux.vspan(x=[one.wavelength for one in lines], line_color=GREY, line_dash="dotted",
               line_alpha=0.7)
    styles = {
        "continuum": {"line_color": BLUE, "line_dash": "dashed", "line_width": 1},
        "model": {"line_color": VERMILION, "line_width": 2.5, "line_alpha": 0.8},
        "unused": {"line_color": "#888888", "line_width": 1, "line_dash": "dotted"},
        "flux": {"line_color": INK, "line_width": 1},
        "residual": {"line_color": INK, "line_width": 1},
    }
    legends = {"flux": "observed", "unused": "not used"}
    for name, style in styles.items():
        panel = residual if name == "residual" else flux
        legend = {} if panel is residual else {"legend_label": legends.get(name, name)}
        renderer = panel.line("x", f"{name}_normalised", source=source, **style, **legend)
        renderer.tags = [name]
        renderers.append(renderer)
        if name in ("flux", "residual"):
            panel.add_tools(HoverTool(renderers=[renderer], mode="vline", line_policy="nearest",
                                      tooltips=[("Å", "@x{0.000}"), (name, "$snap_y{0.0000}")]))
    residual.hspan(y=[0.0], line_color=VERMILION)
    flux.legend.orientation = "horizontal"
    flux.legend.location = "bottom_left"
    flux.legend.background_fill_alpha = 0.7
    flux.legend.border_line_alpha = 0.0
    flux.legend.padding = 4
    for panel, limits, titles in (
        (flux, _limits, {"normalised": "flux / continuum", "observed": "flux as observed"}),
        (residual, _reach, {"normalised": "residual (%)", "observed": "residual as observed"}),
    ):
        both = {unit: limits(curves[unit], arm.used) for unit in UNITS}
        panel.y_range = Range1d(*both["normalised"])
        panel.yaxis.axis_label = titles["normalised"]
        panels.append([panel.y_range, panel.yaxis[0], both, titles])
    return column(above, flux, residual, sizing_mode="stretch_width")


def _curves(arm: ArmFit) -> dict[str, dict[str, Array]]:
    """Return the curves in both units, NaN where they are not drawn."""
    scale = np.where(arm.continuum > 0, arm.continuum, np.nan)
    covered = np.zeros(len(arm.used), dtype=bool)
    covered[arm.covered] = True
    used, shown = arm.used, arm.spectrum.good
    observed = {
        "flux": np.where(used, arm.flux, np.nan),
        # where a run of them begins and ends, the curve joins the pixels that were used
        "unused": np.where(shown & _grown(~used), arm.flux, np.nan),
        "model": np.where(covered, arm.model, np.nan),
        "continuum": np.where(covered, arm.continuum, np.nan),
        "residual": np.where(used, arm.flux - arm.model, np.nan),
    }
    normalised = {n: v / scale * (100.0 if n == "residual" else 1.0) for n, v in observed.items()}
    return {"observed": observed, "normalised": normalised}


def _grown(out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return runs of pixels with a neighbour more on either side."""
    padded = np.concatenate([[False], out, [False]])
    return np.asarray(padded[:-2] | padded[1:-1] | padded[2:])


def _limits(curves: dict[str, Array], used: NDArray[np.bool_]) -> tuple[float, float]:
    """Return limits of the flux that a few wild pixels do not set."""
    if not used.any():
        return 0.0, 1.0
    low, high = np.nanpercentile(curves["flux"][used], [0.1, 99.9])
    high = max(high, float(np.nanpercentile(curves["continuum"][used], 99.0)))
    return float(low - 0.12 * (high - low)), float(high + 0.08 * (high - low))


def _reach(curves: dict[str, Array], used: NDArray[np.bool_]) -> tuple[float, float]:
    """Return limits of the residuals likewise."""
    if not used.any():
        return -1.0, 1.0
    reach = 1.5 * float(np.nanpercentile(np.abs(curves["residual"][used]), 98.0))
    return -(reach or 1.0), reach or 1.0


def _figure(x_range: Any, height: int) -> Any:
    from bokeh.models import BoxZoomTool, PanTool, ResetTool, SaveTool, WheelZoomTool
    from bokeh.plotting import figure

    wheel, pan = WheelZoomTool(dimensions="width"), PanTool()
    made = figure(x_range=x_range, height=height, sizing_mode="stretch_width", min_border_left=70,
                  tools=[pan, wheel, BoxZoomTool(), ResetTool(), SaveTool()], active_scroll=wheel,
                  active_drag=pan)
    made.axis.axis_label_text_font_style = "normal"
    made.axis.axis_label_text_font_size = "14px"
    made.axis.major_label_text_font_size = "13px"
    made.toolbar.logo = None
    return made


def _shade(figure: Any, arm: ArmFit) -> None:
    """Grey the runs of pixels that did not enter the fit, hatched for print."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (~arm.used).astype(int), [0]])))
    last = len(arm.used) - 1
    figure.vstrip(
        x0=arm.wavelength[np.maximum(edges[::2] - 1, 0)],
        x1=arm.wavelength[np.minimum(edges[1::2], last)], fill_color=GREY, fill_alpha=0.35,
        line_color=None, hatch_pattern="right_diagonal_line", hatch_color=GREY, hatch_alpha=0.6,
        name="unused")


def _names(lines: list[Identification], x_range: Any) -> Any:
    """Return the panel of the names of lines, as many as there is room for."""
    from bokeh.models import CDSView, ColumnDataSource, CustomJS, HoverTool, IndexFilter, Range1d

    source = ColumnDataSource({
        "x": [one.wavelength for one in lines],
        "text": [f"{one.species} {one.rest:.1f}" for one in lines],
        "rest": [f"{one.rest:.3f} Å at rest" for one in lines],
        "level": [f"{one.excitation:.2f} eV" for one in lines],
        "log_gf": [f"{one.log_gf:.2f}" for one in lines],
        "depth": [f"{100 * one.depth:.0f} %" for one in lines],
    })
    figure = _figure(x_range, 108)
    figure.y_range = Range1d(0.0, 1.0)
    figure.toolbar_location = None
    figure.axis.visible = False
    figure.grid.visible = False
    figure.outline_line_color = None
    figure.segment(x0="x", x1="x", y0=0.0, y1=0.12, source=source, line_color=INK, line_width=1.5)
    # as wide as one can point at
    target = figure.rect("x", 0.5, width=9, height=1.0, source=source, alpha=0.0)
    target.glyph.width_units = "screen"
    names = IndexFilter(indices=_with_room(source.data["x"], x_range))
    figure.text("x", 0.16, "text", source=source, view=CDSView(filter=names), angle=np.pi / 2,
                text_baseline="middle", text_font_size="12px", text_color=INK)
    figure.add_tools(HoverTool(renderers=[target], attachment="below", tooltips=[
        ("line", "@text"), ("", "@rest"), ("excitation", "@level"), ("log gf", "@log_gf"),
        ("depth of the dip", "@depth")]))
    settle = CustomJS(args={"source": source, "range": x_range, "names": names, "figure": figure,
                            "pixels": ROOM}, code=_NAMES)
    x_range.js_on_change("start", settle)
    x_range.js_on_change("end", settle)
    figure.js_on_change("inner_width", settle)  # once it is laid out, and whenever it is resized
    return figure


def _with_room(x: list[float], x_range: Any) -> list[int]:
    """Return what the page does when it is laid out, for a page of usual width."""
    room = ROOM * (x_range.end - x_range.start) / WIDTH
    shown: list[int] = []
    for i, place in enumerate(x):
        if x_range.start < place < x_range.end and all(abs(x[k] - place) > room for k in shown):
            shown.append(i)
    return shown
