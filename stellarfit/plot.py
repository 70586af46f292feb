"""Pictures of fits.  Needs matplotlib: ``pip install stellarfit[plot]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emulators.files import atomic_write
from stellarfit.quality import describe

if TYPE_CHECKING:
    from stellarfit.result import ArmFit, FitResult

# Two hues that stay apart for the colour-blind and in grey (Okabe & Ito).
DATA, MODEL, MASKED = "#222222", "#D55E00", "#BBBBBB"


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'stellarfit[plot]'") from error
    return plt


def finish(figure: Any, path: str | Path | None) -> Any:
    """Return a figure, or write it to a path and return that."""
    if path is None:
        return figure
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    _pyplot().close(figure)
    return Path(path)


def plot_fit(result: FitResult, path: str | Path | None = None) -> Any:
    """Draw spectrum and model over the continuum, residuals, and the labels in the margin.

    Parameters
    ----------
    result : FitResult
        With a pair of panels for each arm.
    path : str or Path, optional
        Write the picture there (format by suffix) and return the path; otherwise return
        the matplotlib figure.
    """
    plt = _pyplot()
    arms = result.by_arm()
    rows = [[f"{kind}{i}", "labels"] for i in range(len(arms)) for kind in ("flux", "residual")]
    figure, axes = plt.subplot_mosaic(
        rows, figsize=(14, 2.0 + 4.5 * len(arms)), layout="constrained",
        height_ratios=[3, 1] * len(arms), width_ratios=[5, 1],
    )
    for i, arm in enumerate(arms):
        _plot_arm(axes[f"flux{i}"], axes[f"residual{i}"], arm)
    title = f"{result.name or 'spectrum'}   {result.provenance['emulator']}, "
    axes["flux0"].set_title(title + result.provenance["instrument"], loc="left", fontsize=10)
    axes["labels"].axis("off")
    axes["labels"].text(0.0, 1.0, _margin(result), transform=axes["labels"].transAxes,
                        va="top", family="monospace", fontsize=8)
    return finish(figure, path)


def _plot_arm(top: Any, bottom: Any, arm: ArmFit) -> None:
    """Draw one arm's flux and residuals."""
    top.sharex(bottom)
    top.tick_params(labelbottom=False)
    x, used = arm.wavelength, arm.used
    flux, model = arm.flux / arm.continuum, arm.model / arm.continuum
    shown = np.where(arm.spectrum.good, flux, np.nan)
    if not used.any():
        top.set_title(f"arm {arm.name}: no pixel used", fontsize=9)
        return
    first, last = np.flatnonzero(used)[[0, -1]]
    covered = (np.arange(len(x)) >= first) & (np.arange(len(x)) <= last)
    # The model lies under the data, wide enough to show on both sides of them.
    top.plot(x, np.where(covered, model, np.nan), color=MODEL, lw=2.2, alpha=0.8, label="model")
    top.plot(x, np.where(used, np.nan, shown), color=MASKED, lw=0.8, label="not used")
    top.plot(x, np.where(used, shown, np.nan), color=DATA, lw=0.6, label="observed")
    top.set_ylabel("flux / continuum" + (f", {arm.name}" if arm.name else ""))
    low, high = np.nanpercentile(shown[used], [0.1, 99.9])
    top.set_ylim(low - 0.1 * (high - low), max(1.05, high) + 0.1 * (high - low))
    top.legend(loc="lower left", ncols=3, fontsize=8, frameon=False)

    residual = 100.0 * (flux - model)
    bottom.plot(x, np.where(used, residual, np.nan), color=DATA, lw=0.6)
    bottom.axhline(0.0, color=MODEL, lw=0.8)
    reach = max(0.5, np.nanpercentile(np.abs(residual[used]), 99.5) * 1.2)
    bottom.set_ylim(-reach, reach)
    bottom.set_ylabel("residual (%)")
    bottom.set_xlabel(f"wavelength in {arm.spectrum.medium} (Å)")
    _shade_unused(top, arm)
    _shade_unused(bottom, arm)
    bottom.set_xlim(x[first] - 2.0, x[last] + 2.0)


def _shade_unused(axes: Any, arm: ArmFit) -> None:
    """Grey the runs of pixels that did not enter the fit."""
    x, out = arm.wavelength, ~arm.used
    edges = np.flatnonzero(np.diff(np.concatenate([[0], out.astype(int), [0]])))
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        axes.axvspan(x[first], x[min(stop, len(x) - 1)], color=MASKED, alpha=0.35, lw=0)


def _margin(result: FitResult) -> str:
    lines = []
    for name, unit in zip(result.names, result.units, strict=True):
        digits = 0 if unit == "K" else 2
        lines.append(f"{name:<7s}{result.labels[name]:9.{digits}f} "
                     f"±{result.errors[name]:7.{max(1, digits + 1)}f} {unit}")
    lines += ["", f"chi2/dof  {result.reduced_chi2:.2f}",
              f"scatter   {100 * result.residual_rms:.2f} %",
              f"S/N       {result.snr:.0f}",
              "converged" if result.converged else "NOT CONVERGED"]
    for text in describe(result.flags):
        words, line = text.split(), "-"
        for word in words:
            if len(line) + len(word) > 28:
                lines.append(line)
                line = " "
            line += " " + word
        lines.append(line)
    return "\n".join(lines)
