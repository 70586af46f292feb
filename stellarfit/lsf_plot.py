"""A picture of an instrument: its line-spread function, its pixels, its resolution."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from emulators.picture import BLUE, GREEN, GREY, VERMILION, finish, new_figure
from stellarfit.constants import SIGMA_PER_FWHM, SPEED_OF_LIGHT
from stellarfit.instrument import Instrument, instrument_for
from stellarfit.lsf import density, pixel_edges

#: points of a profile, and how far it is drawn, in FWHM
POINTS, REACH = 1001, 1.8
#: where an instrument without a table is drawn, Angstrom
OPTICAL = (4000.0, 7000.0)


def plot_lsf(
    instrument: Instrument | str | Path | float, path: str | Path | None = None, *,
    wavelength: ArrayLike | None = None,
) -> Any:
    """Draw the profile that an instrument gives a narrow line, and its resolution.

    Parameters
    ----------
    instrument : Instrument, name of one, file of wavelength and R, or R
    path : str or Path, optional
        Write the picture there (format by suffix) and return the path; otherwise return the
        matplotlib figure.
    wavelength : (n_pix,) array_like, optional
        Centres of a spectrum's pixels, Angstrom: the profile is shown in the middle of them, with
        the widths of the pixels there.

    Raises
    ------
    ValueError
        For an unknown instrument, listing those that are known; for fewer than two pixels.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> plot_lsf("harps", "harps.png")                                    # doctest: +SKIP
    """
    number = isinstance(instrument, Real)
    one = instrument_for(**{"resolution" if number else "instrument": instrument})  # type: ignore[arg-type]
    span = _span(one, wavelength)
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    middle = float(np.median(span))
    resolution = float(one.resolution_at(np.array([middle]))[0])
    _draw_profile(left, one, resolution)
    if wavelength is not None:
        _draw_pixels(left, span, middle)
    left.legend(loc="upper right", fontsize=8, frameon=False)
    left.set_title(f"{one.name} at {middle:.0f} Å: FWHM = {SPEED_OF_LIGHT / resolution:.2f} km/s"
                   f" = {middle / resolution:.3f} Å", loc="left", fontsize=10)
    x = np.linspace(span[0], span[-1], POINTS)
    right.plot(x, one.resolution_at(x), color=BLUE, lw=1.5)
    right.plot(middle, resolution, "o", mfc="none", mec=VERMILION, ms=8)
    right.set_ylim(0.0, 1.15 * float(one.resolution_at(x).max()))
    right.set_xlabel("wavelength (Å)")
    right.set_ylabel("R = wavelength / FWHM")
    right.set_title(one.reference, loc="left", fontsize=9, color="0.35")
    return finish(figure, path)


def _span(instrument: Instrument, wavelength: ArrayLike | None) -> NDArray[np.float64]:
    """Return wavelengths that are drawn, increasing."""
    if wavelength is None:
        return np.array([w for w, _ in instrument.table] or OPTICAL)
    span = np.sort(np.asarray(wavelength, dtype=float).ravel())
    if len(span) < 2:
        raise ValueError(f"wavelength has {len(span)} pixels; expected two or more, in Å")
    instrument.check(span)
    return span


def _draw_profile(axes: Any, instrument: Instrument, resolution: float) -> None:
    fwhm = SPEED_OF_LIGHT / resolution
    velocity = np.linspace(-REACH, REACH, POINTS) * fwhm
    x = torch.as_tensor(velocity / (fwhm * SIGMA_PER_FWHM))
    peak = float(density(x[POINTS // 2]))
    profile = density(x, instrument.h3, instrument.h4).numpy() / peak
    text = "Gaussian" if instrument.gaussian else (
        f"Gauss-Hermite, h3 = {instrument.h3:g}, h4 = {instrument.h4:g}")
    if not instrument.gaussian:
        axes.plot(velocity, density(x).numpy() / peak, color=VERMILION, ls="--", lw=1.2,
                  label="Gaussian")
    axes.plot(velocity, profile, color=BLUE, lw=1.8, label=text)
    axes.axhline(0.0, color=GREY, lw=0.6, zorder=0)
    axes.annotate("", (-0.5 * fwhm, 0.5), (0.5 * fwhm, 0.5),
                  arrowprops={"arrowstyle": "<->", "color": GREEN, "lw": 1.2})
    axes.text(0.0, 0.52, "FWHM", ha="center", fontsize=8, color=GREEN)
    axes.set_xlabel("velocity (km/s)")
    axes.set_ylabel("line-spread function / peak")
    axes.set_ylim(min(0.0, float(profile.min())) - 0.05, 1.3)
    axes.margins(x=0)


def _draw_pixels(axes: Any, wavelength: NDArray[np.float64], middle: float) -> None:
    """Draw the edges of the pixels around the middle as a comb below the profile."""
    low, high = pixel_edges(wavelength)
    edges = SPEED_OF_LIGHT * (np.append(low, high[-1]) - np.log(middle))
    left, right = axes.get_xlim()
    seen = edges[(edges >= left) & (edges <= right)]
    width = float(np.median(high - low)) * SPEED_OF_LIGHT
    axes.vlines(seen, 0.0, 0.06, color=GREY, lw=1.0, label=f"pixels of {width:.2f} km/s")
