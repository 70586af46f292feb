"""Pictures of fits.  Needs matplotlib: ``pip install stellarfit[plot]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emulators.picture import BLUE, GREY, INK, VERMILION, finish, new_figure
from stellarfit.quality import describe

if TYPE_CHECKING:
    from stellarfit.result import ArmFit, FitResult

DATA, MODEL, MASKED = INK, VERMILION, GREY


def plot_fit(result: FitResult, path: str | Path | None = None) -> Any:
    """Draw spectrum and model over the continuum, residuals, and the labels in the margin.

    Parameters
    ----------
    result : FitResult
        With a pair of panels for each arm.
    path : str or Path, optional
        Write the picture there (format by suffix) and return the path; otherwise return
        the matplotlib figure.

    Raises
    ------
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> plot_fit(stellarfit.load_result("out/star.h5"), "fit.png")        # doctest: +SKIP
    """
    arms = result.by_arm()
    rows = [[f"{kind}{i}", "labels"] for i in range(len(arms)) for kind in ("flux", "residual")]
    figure = new_figure(14, 2.0 + 4.5 * len(arms))
    axes = figure.subplot_mosaic(rows, height_ratios=[3, 1] * len(arms), width_ratios=[5, 1])
    for i, arm in enumerate(arms):
        _plot_arm(axes[f"flux{i}"], axes[f"residual{i}"], arm)
    title = f"{result.name or 'spectrum'}   {result.provenance['emulator']}, "
    axes["flux0"].set_title(title + result.provenance["instrument"], loc="left", fontsize=10)
    axes["labels"].axis("off")
    axes["labels"].text(0.0, 1.0, _margin(result), transform=axes["labels"].transAxes,
                        va="top", family="monospace", fontsize=8)
    return finish(figure, path)


def plot_residuals(result: FitResult, path: str | Path | None = None) -> Any:
    """Draw residuals in units of the noise against wavelength, and how they are distributed.

    Where the model is right they scatter about zero like the Gaussian that is drawn beside them;
    runs of one sign are lines that the model has wrong.

    Parameters
    ----------
    result : FitResult
        With a row of panels for each arm.
    path : str or Path, optional
        Write the picture there (format by suffix) and return the path; otherwise return
        the matplotlib figure.

    Raises
    ------
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> plot_residuals(stellarfit.load_result("out/star.h5"), "residuals.png")  # doctest: +SKIP
    """
    arms = result.by_arm()
    figure = new_figure(12, 0.8 + 2.9 * len(arms))
    rows = figure.subplots(len(arms), 2, squeeze=False, sharey="row",
                           gridspec_kw={"width_ratios": [5, 1]})
    for (left, right), arm in zip(rows, arms, strict=True):
        _plot_pulls(left, right, arm)
    rows[-1, 1].set_xlabel("fraction of pixels")
    fit = f"chi2/dof {result.reduced_chi2:.2f}"
    if jitter := result.provenance.get("jitter"):  # which the noise drawn here does not hold
        fit += (f" with a jitter of {100 * jitter:.2f} %, {result.provenance['excess']:.1f} "
                "without")
    figure.suptitle(f"{result.name or 'spectrum'}   {fit}; residual scatter "
                    f"{100 * result.residual_rms:.2f} % of the continuum",
                    x=0.01, ha="left", fontsize=10)
    return finish(figure, path)


def _plot_pulls(left: Any, right: Any, arm: ArmFit) -> None:
    """Draw one arm's residuals in units of the given noise, and their histogram."""
    pull = (arm.flux - arm.model) * np.sqrt(arm.spectrum.ivar)
    left.plot(arm.wavelength, np.where(arm.used, pull, np.nan), color=DATA, lw=0.6)
    for level in (-3.0, 0.0, 3.0):
        left.axhline(level, color=MODEL, lw=0.9, ls="-" if level == 0 else "--")
    _shade_unused(left, arm)
    left.set_ylabel("residual / noise" + (f", {arm.name}" if arm.name else ""))
    left.set_xlabel(f"wavelength in {arm.spectrum.medium} (Å)")
    pulls = pull[arm.used]
    if not len(pulls):
        left.set_title(f"arm {arm.name}: no pixel used", fontsize=9)
        return
    reach = float(np.clip(1.5 * np.percentile(np.abs(pulls), 98.0), 4.0, 30.0))
    left.set_ylim(-reach, reach)
    _show_covered(left, arm)
    bins = np.linspace(-reach, reach, 41)
    share = np.full(len(pulls), 1.0 / len(pulls))
    right.hist(pulls, bins, weights=share, orientation="horizontal", color=MASKED,
               label="residuals")
    x = np.linspace(-reach, reach, 400)
    gaussian = np.exp(-0.5 * x**2) / np.sqrt(2.0 * np.pi) * (bins[1] - bins[0])
    right.plot(gaussian, x, color=BLUE, ls="--", lw=1.5, label="noise")
    right.legend(loc="upper right", fontsize=8, frameon=False)


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
    # The model lies under the data, wide enough to show on both sides of them.
    top.plot(x[arm.covered], model[arm.covered], color=MODEL, lw=2.2, alpha=0.8, label="model")
    top.plot(x, np.where(used, np.nan, shown), color=MASKED, lw=0.8, label="not used")
    top.plot(x, np.where(used, shown, np.nan), color=DATA, lw=0.6, label="observed")
    top.set_ylabel("flux / continuum" + (f", {arm.name}" if arm.name else ""))
    low, high = np.nanpercentile(shown[used], [0.1, 99.9])
    top.set_ylim(low - 0.1 * (high - low), max(1.05, high) + 0.1 * (high - low))
    top.legend(loc="lower left", ncols=3, fontsize=8, frameon=False)

    residual = 100.0 * (flux - model)
    bottom.plot(x, np.where(used, residual, np.nan), color=DATA, lw=0.6)
    bottom.axhline(0.0, color=MODEL, lw=0.8)
    # a few lines that the model has wrong leave the panel, and the others can be seen
    reach = max(0.5, np.nanpercentile(np.abs(residual[used]), 98.0) * 1.5)
    bottom.set_ylim(-reach, reach)
    bottom.set_ylabel("residual (%)")
    bottom.set_xlabel(f"wavelength in {arm.spectrum.medium} (Å)")
    _shade_unused(top, arm)
    _shade_unused(bottom, arm)
    _show_covered(bottom, arm)


def _show_covered(axes: Any, arm: ArmFit) -> None:
    """Leave out what the fit does not reach, but for a margin."""
    first, last = arm.wavelength[arm.covered][[0, -1]]
    axes.set_xlim(first - 2.0, last + 2.0)


def _shade_unused(axes: Any, arm: ArmFit) -> None:
    """Grey the runs of pixels that did not enter the fit."""
    x, out = arm.wavelength, ~arm.used
    edges = np.flatnonzero(np.diff(np.concatenate([[0], out.astype(int), [0]])))
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        axes.axvspan(x[first], x[min(stop, len(x) - 1)], color=MASKED, alpha=0.35, lw=0)


def _margin(result: FitResult) -> str:
    lines = []
    for name, unit in zip(result.names, result.units, strict=True):
        digits = 0 if unit == "K" else 3
        lines.append(f"{name:<7s}{result.labels[name]:9.{digits}f} "
                     f"±{result.errors[name]:7.{max(1, digits)}f} {unit}")
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
