"""A picture of a grid: its spectra and where its labels lie.  Needs matplotlib."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulators.grid import Grid
from emulators.picture import GREY, INK, VERMILION, finish, new_figure

TRAIN, VALIDATION, LINE = GREY, VERMILION, INK
COLOURS = "cividis"  # even in grey, and for the colour-blind
SHOWN, SAMPLE = 6, 500
NAMES = {"teff": "Teff", "logg": "log g", "vmic": "vmic", "vmac": "vmac", "vsini": "v sin i"}
FIRST = ("teff", "logg", "fe_h", "vmic", "mg_h", "c_h", "si_h", "ca_h", "ti_h")


def plot_grid(grid: Grid | str | Path, path: str | Path | None = None) -> Any:
    """Draw some spectra, the range of all, and how the labels are distributed.

    Parameters
    ----------
    grid : Grid or path
    path : str or Path, optional
        Write the picture there (format by suffix) and return the path; otherwise return the
        matplotlib figure.

    Raises
    ------
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> plot_grid(Grid("mine.h5"), "mine.png")                            # doctest: +SKIP
    """
    figure = new_figure(12, 10)
    grid = grid if isinstance(grid, Grid) else Grid(grid)
    labels = varying(grid)
    above, below = figure.subfigures(2, 1, height_ratios=[3, 2])
    top, bottom = above.subplots(2, 1, height_ratios=[2.6, 1], sharex=True)
    _draw_spectra(top, grid, labels)
    _draw_range(bottom, grid)
    axes = below.subplot_mosaic([["plane", "0", "1"], ["plane", "2", "3"]],
                                width_ratios=[2.2, 1, 1])
    _draw_plane(axes["plane"], below, grid, labels)
    beside = (labels[2:] + labels[:2])[:4]
    for place in range(4):
        if place < len(beside):
            _draw_histogram(axes[str(place)], grid, beside[place])
        else:
            axes[str(place)].axis("off")
    if beside:
        axes["0"].legend(loc="upper center", ncols=2, fontsize=7, frameon=False)
    above.suptitle(f"{grid.path.name}: {grid.n_spec} spectra, {len(labels)} of "
                   f"{len(grid.label_set)} labels vary", x=0.01, ha="left", fontsize=11)
    return finish(figure, path)


def varying(grid: Grid) -> list[str]:
    """Return the labels that vary, those that shape a spectrum most first."""
    names = [n for n, low, high in zip(grid.label_set.names, grid.label_set.low,
                                       grid.label_set.high, strict=True) if low < high]
    return sorted(names, key=lambda n: FIRST.index(n) if n in FIRST else len(FIRST))


def _values(grid: Grid, name: str) -> NDArray[np.float64]:
    return grid.labels[:, grid.label_set.index(name)]


def _title(grid: Grid, name: str) -> str:
    unit = grid.label_set.units[grid.label_set.index(name)]
    pretty = f"[{name[:-2].capitalize()}/H]" if name.endswith("_h") else NAMES.get(name, name)
    return f"{pretty} ({unit})" if unit and unit != "dex" else pretty


def _with_value(grid: Grid, name: str, row: int) -> str:
    """Return the value of a label of one spectrum, such as ``5772 K`` or ``[Fe/H] −0.5``."""
    value, unit = _values(grid, name)[row], grid.label_set.units[grid.label_set.index(name)]
    number = f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
    text = f"{number} K" if unit == "K" else f"{_title(grid, name).split(' (')[0]} {number}"
    return text.replace("-", "−")


def _spread(grid: Grid, names: list[str]) -> NDArray[np.int64]:
    """Return rows that are spread over the first label, from its lowest to its highest."""
    order = np.argsort(_values(grid, names[0])) if names else np.arange(grid.n_spec)
    places = np.linspace(0, grid.n_spec - 1, min(SHOWN, grid.n_spec)).round().astype(int)
    return np.asarray(order[places], dtype=np.int64)


def _windows(grid: Grid) -> list[slice]:
    """Return the pixels of each window: between them steps are much wider."""
    step = np.diff(np.log(grid.wavelength))
    ends = [0, *(np.flatnonzero(step > 10.0 * np.median(step)) + 1), len(grid.wavelength)]
    return [slice(a, b) for a, b in pairwise(ends)]


def _places(grid: Grid) -> NDArray[np.float64]:
    """Return where pixels are drawn, (n_pix,): wavelengths, the gaps between windows narrowed."""
    at = grid.wavelength.astype(float).copy()
    windows = _windows(grid)
    gap = 0.03 * sum(at[w][-1] - at[w][0] for w in windows)
    for before, after in pairwise(windows):
        at[after.start:] -= at[after.start] - at[before.stop - 1] - gap
    return at


def _label_windows(axes: Any, grid: Grid) -> None:
    """Write wavelengths below what stands at :func:`_places`."""
    from matplotlib.ticker import MaxNLocator

    at, windows = _places(grid), _windows(grid)
    axes.set_xlim(at[0], at[-1])
    if len(windows) == 1:
        return
    each = [MaxNLocator(3).tick_values(grid.wavelength[w][0], grid.wavelength[w][-1])
            for w in windows]
    ticks = np.concatenate([t[(t >= grid.wavelength[w][0]) & (t <= grid.wavelength[w][-1])]
                            for t, w in zip(each, windows, strict=True)])
    axes.set_xticks(np.interp(ticks, grid.wavelength, at), [f"{t:g}" for t in ticks])


def _draw_spectra(axes: Any, grid: Grid, names: list[str]) -> None:
    from matplotlib import colormaps

    rows = _spread(grid, names)
    flux, at = grid.flux(rows), _places(grid)
    offset = max(0.3, float(np.nanmax(1.0 - np.nanpercentile(flux, 1, axis=1))))
    colours = colormaps[COLOURS](np.linspace(0.0, 0.75, len(rows)))
    for place, (row, spectrum, colour) in enumerate(zip(rows, flux, colours, strict=True)):
        base = place * offset
        for w in _windows(grid):
            axes.plot(at[w], spectrum[w] + base, color=colour, lw=0.6, rasterized=True)
        text = "\n".join(_with_value(grid, n, row) for n in names[:3])
        axes.annotate(text, (1.008, base + 1.0), fontsize=7.5, va="top",
                      xycoords=("axes fraction", "data"), annotation_clip=False)
    axes.set_ylabel(f"flux / continuum, {offset:.2g} apart")
    axes.set_yticks([0, 1])
    axes.set_ylim(min(-0.05, float(np.nanmin(flux[0])) - 0.05), 1.15 + offset * (len(rows) - 1))


def _draw_range(axes: Any, grid: Grid) -> None:
    rows = np.unique(np.linspace(0, grid.n_spec - 1, min(SAMPLE, grid.n_spec)).astype(int))
    low, middle, high = np.nanpercentile(grid.flux(rows), [5, 50, 95], axis=0)
    at = _places(grid)
    for k, w in enumerate(_windows(grid)):
        axes.fill_between(at[w], low[w], high[w], color=TRAIN, lw=0,
                          label="" if k else "9 in 10 spectra")
        axes.plot(at[w], middle[w], color=LINE, lw=0.5, label="" if k else "median")
    _label_windows(axes, grid)
    axes.set_ylim(min(0.0, float(np.nanmin(low))), max(1.05, float(np.nanmax(high))))
    axes.set_ylabel("flux / continuum")
    axes.set_xlabel(f"wavelength in {grid.medium} (Å)")
    axes.legend(loc="lower right", ncols=2, fontsize=7, framealpha=0.8, edgecolor="none")


def _draw_plane(axes: Any, figure: Any, grid: Grid, names: list[str]) -> None:
    if len(names) < 2:
        axes.axis("off")
        return
    x, y = _values(grid, names[0]), _values(grid, names[1])
    colour = _values(grid, names[2]) if len(names) > 2 else LINE
    points = axes.scatter(x, y, c=colour, cmap=COLOURS if len(names) > 2 else None,
                          s=float(np.clip(15000 / grid.n_spec, 5, 25)), lw=0, rasterized=True)
    if len(names) > 2:
        figure.colorbar(points, ax=axes, label=_title(grid, names[2]), pad=0.01)
    axes.set_xlabel(_title(grid, names[0]))
    axes.set_ylabel(_title(grid, names[1]))
    # As in a Hertzsprung-Russell diagram.
    if names[0] == "teff":
        axes.invert_xaxis()
    if names[1] == "logg":
        axes.invert_yaxis()


def _draw_histogram(axes: Any, grid: Grid, name: str) -> None:
    values = _values(grid, name)
    bins = np.linspace(values.min(), values.max(), int(np.clip(grid.n_spec**0.5, 5, 20)) + 1)
    train, validation = grid.rows("train"), grid.rows("validation")
    axes.hist(values[train], bins, density=True, color=TRAIN, label="train")
    if len(validation):
        axes.hist(values[validation], bins, density=True, histtype="step", color=VALIDATION,
                  label="validation")
    axes.set_xlabel(_title(grid, name), labelpad=1)
    axes.set_yticks([])
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
