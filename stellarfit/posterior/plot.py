"""Pictures of posteriors: pairs of parameters, chains, and the spectra that samples predict."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emulators.picture import BLUE, GREEN, GREY, finish, new_figure
from stellarfit.plot import DATA, MODEL
from stellarfit.posterior.result import digits_of

if TYPE_CHECKING:
    from stellarfit.posterior.result import Posterior

#: inches that pairs of many parameters share
LARGEST = 13.0
#: fewer distinct samples are shown as points alone
CONTOURED = 400
#: up to so many parameters have room for errors of two figures
FEW = 9


def _titles(posterior: Posterior) -> dict[str, str]:
    return {n: f"{n} ({u})" if u else n
            for n, u in zip(posterior.names, posterior.units, strict=True)}


def _headline(posterior: Posterior, width: int) -> str:
    """Return name and verdict in lines of at most so many characters."""
    word = "converged" if posterior.converged else "NOT converged"
    text = f"{posterior.fit.name or 'spectrum'}: {word}: {posterior.verdict}"
    return textwrap.fill(text, width, max_lines=4, placeholder=" ...")


def plot_corner(
    posterior: Posterior, path: str | Path | None = None, names: Sequence[str] | None = None
) -> Any:
    """Draw all pairs of parameters; the fit's values as lines.

    Parameters
    ----------
    posterior : Posterior
    path : str or Path, optional
        Write the picture there (format by suffix) and return the path; otherwise return
        the matplotlib figure.
    names : sequence of str, optional
        Free or derived parameters; by default all that are free.

    Raises
    ------
    ValueError
        When there are hardly more samples than parameters, and for what is no posterior.
    KeyError
        For a name that was not sampled.
    ImportError
        Without matplotlib and corner.

    Examples
    --------
    >>> plot_corner(posterior, "corner.png", names=["teff", "logg"])      # doctest: +SKIP
    """
    try:
        import corner
    except ImportError as error:
        raise ImportError("corner plots need corner: pip install 'stellarfit[plot]'") from error
    if not hasattr(posterior, "samples"):
        raise ValueError(f"got a {type(posterior).__name__}; pairs are drawn of a posterior, from "
                         "stellarfit.sample")
    names = [names] if isinstance(names, str) else names
    names = posterior.names if names is None else tuple(names)
    if len(posterior.samples) <= len(names):
        raise ValueError(f"{len(posterior.samples)} samples are too few to draw pairs of "
                         f"{len(names)} parameters")
    titles = _titles(posterior)
    free = dict(zip(posterior.names, posterior.fitted, strict=True))
    fitted = [free.get(n, posterior.fit.labels.get(n, np.nan)) for n in names]
    size = float(np.clip(LARGEST / len(names), 0.9, 2.2))
    text = 6.0 + 1.5 * (size - 0.9)
    figure = new_figure(LARGEST, LARGEST, constrained=False)
    samples = np.column_stack([posterior.of(n) for n in names])
    enough = len(np.unique(samples, axis=0)) >= CONTOURED
    corner.corner(
        samples, fig=figure, range=[_range(column) for column in samples.T],
        labels=[titles.get(n, f"{n} (dex)") for n in names], truths=fitted, truth_color=MODEL,
        color=DATA, quantiles=[0.1587, 0.5, 0.8413], label_kwargs={"fontsize": text},
        max_n_ticks=3, labelpad=0.4 / size - 0.24, truth_kwargs={"lw": 0.8},
        contour_kwargs={"linewidths": 0.6}, plot_contours=enough, plot_density=enough, quiet=True,
    )
    for name, axes in zip(names, figure.axes[::len(names) + 1], strict=True):
        low, median, high = posterior.interval(name)
        digits = digits_of(low, high, 2 if len(names) <= FEW else 1)  # as there is room
        middle = f"{median:.{digits}f}".replace("-", "−")
        axes.set_title(f"{name}\n{middle} −{median - low:.{digits}f} "
                       f"+{high - median:.{digits}f}", fontsize=text)
    for axes in figure.axes:
        axes.tick_params(labelsize=text)
    whole = size * len(names) + 1.2
    figure.set_size_inches(whole, whole)
    figure.subplots_adjust(left=0.9 / whole, bottom=0.9 / whole, right=1 - 0.1 / whole,
                           top=1 - 0.4 / whole)
    if len(names) > 2:  # there is room
        figure.text(1 - 0.2 / whole, 1 - 0.2 / whole, _headline(posterior, 9 * len(names)),
                    ha="right", va="top", fontsize=text + 2.0)
    return finish(figure, path)


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return what is drawn of a parameter; one that never moved is in the middle."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 1.0, high + 1.0)


def plot_trace(posterior: Posterior, path: str | Path | None = None) -> Any:
    """Draw every walker step by step, a row per parameter; the burn-in is grey."""
    count = len(posterior.names)
    figure = new_figure(8.0, 0.9 * count + 1.0)
    rows = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    titles = _titles(posterior)
    # draws that know nothing of the one before are joined by no line
    alone = posterior.fit.provenance.get("sampler") == "importance"
    style: dict[str, Any] = {"ls": "", "marker": ".", "ms": 2.0} if alone else {"lw": 0.3}
    colours = [DATA, BLUE, GREEN, GREY]
    for i, (axes, name) in enumerate(zip(rows, posterior.names, strict=True)):
        for k, chain in enumerate(posterior.chain):
            axes.plot(chain[..., i], color=colours[k % len(colours)], alpha=0.4, **style)
        axes.axvspan(0, posterior.diagnosis.burn_in, color="0.9", zorder=0)
        axes.axhline(posterior.fitted[i], color=MODEL, lw=0.8)
        axes.set_ylabel(titles[name], fontsize=7)
        axes.tick_params(labelsize=6)
        axes.margins(x=0)
    rows[-1].set_xlabel("draw" if alone else "step")
    figure.suptitle(_headline(posterior, 110), fontsize=8)
    return finish(figure, path)


def plot_predictive(posterior: Posterior, path: str | Path | None = None) -> Any:
    """Draw spectrum, and residuals with the 68 % interval of what samples predict, over each arm.

    The interval is that of the model alone: noise comes on top of it.
    """
    fit = posterior.fit
    arms = fit.by_arm()
    figure = new_figure(12.0, 1.0 + 3.6 * len(arms))
    panels = figure.subplots(2 * len(arms), 1, squeeze=False, height_ratios=[2, 1] * len(arms))
    first = 0
    for k, arm in enumerate(arms):
        top, bottom = panels[2 * k:2 * k + 2, 0]
        low, median, high = posterior.predicted[:, first:first + len(arm.flux)] / arm.continuum
        first += len(arm.flux)
        x, flux = arm.wavelength, np.where(arm.used, arm.flux / arm.continuum, np.nan)
        median = np.where(arm.used, median, np.nan)
        top.plot(x, flux, color=DATA, lw=0.6, label="observed")
        top.plot(x, median, color=MODEL, lw=0.8, label="median of the samples")
        top.set_ylabel("flux / continuum")
        bottom.plot(x, flux - median, color=DATA, lw=0.4)
        bottom.fill_between(x, low - median, high - median, color=MODEL, alpha=0.5, lw=0,
                            label="68 % of the samples' spectra, without noise")
        bottom.set_ylabel("residual")
        for axes in (top, bottom):  # above: below, they would cover lines
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=7,
                        frameon=False, borderaxespad=0.1)
        for axes in (top, bottom):
            axes.margins(x=0)
    panels[-1, 0].set_xlabel(f"wavelength in {arms[-1].spectrum.medium} (Å)")
    figure.suptitle(_headline(posterior, 150), fontsize=8)
    return finish(figure, path)
