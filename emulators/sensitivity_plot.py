"""A picture of what labels do to a spectrum: which pixels carry which element.  Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emulators.emulator import Emulator
from emulators.lessons import SIGMA_PER_FWHM, refuse_uneven
from emulators.picture import BLUE, GREY, INK, VERMILION, finish, new_figure
from emulators.storage import load

#: labels that are shown, those that move the flux most, unless others are asked for
SHOWN = 12
#: what a label is changed by for a row of the picture: about what a good fit knows it to
STEPS = {"K": 100.0, "dex": 0.1, "km/s": 0.2}


def plot_sensitivity(
    emulator: Emulator | str | Path, labels: Mapping[str, float], path: str | Path | None = None,
    *, names: Sequence[str] | None = None, resolution: float | None = None,
) -> Any:
    """Draw the derivative of the flux along each label, over the spectrum of a star.

    Parameters
    ----------
    emulator : Emulator, or name or folder of one
    labels : mapping of str to float
        Of the star, as an emulator takes them; elements that are not there follow iron.
    path : str or Path, optional
        Write the picture there (format by suffix) and return the path; otherwise return the
        matplotlib figure.
    names : sequence of str, optional
        Labels to show, in this order; by default the twelve that move the flux most.
    resolution : float, optional
        Wavelength / FWHM that the spectrum is seen at, no sharper than the emulator's own; by
        default as the emulator has it.

    Raises
    ------
    ValueError
        For labels outside the emulator's domain, unknown names, a resolution that is not positive
        or sharper than the emulator's own, and one of pixels not uniform in ln(wavelength).
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> sun = {"teff": 5772, "logg": 4.44, "vmic": 1.0, "fe_h": 0.0}
    >>> plot_sensitivity("mgb-fgk", sun, "sun.png", resolution=20_000)    # doctest: +SKIP
    """
    emulator = emulator if isinstance(emulator, Emulator) else load(emulator)
    figure = new_figure(12, 9)
    flux, changes = sensitivity(emulator, labels, resolution=resolution)
    if names is None:
        steps = np.array([_step(unit) for unit in emulator.labels.units])
        power = np.square(steps[:, None] * changes).mean(axis=1)
        order = np.argsort(-power, kind="stable")[:SHOWN]
        names = [emulator.labels.names[i] for i in order]
    rows = [emulator.labels.index(n) for n in names]
    panels = figure.subplots(len(rows) + 1, 1, sharex=True, squeeze=False,
                             height_ratios=[3, *[1] * len(rows)])[:, 0]
    panels[0].plot(emulator.pixels, flux, color=INK, lw=0.7)
    panels[0].set_ylabel("flux / continuum")
    panels[0].set_title(_headline(emulator, labels, resolution), loc="left", fontsize=10)
    for axes, row in zip(panels[1:], rows, strict=True):
        _draw(axes, emulator, row, changes[row])
    panels[-1].set_xlabel(f"wavelength in {emulator.medium} (Å)")
    panels[-1].set_xlim(*emulator.wavelength_range)
    return finish(figure, path)


def sensitivity(
    emulator: Emulator, labels: Mapping[str, float], *, resolution: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a star's flux and its derivative along every label, at the training pixels.

    Parameters
    ----------
    emulator, labels, resolution
        As of :func:`plot_sensitivity`.

    Returns
    -------
    flux : (n_pix,) float64
    derivatives : (n_label, n_pix) float64
        Per unit of the label, in the order of ``emulator.labels``, all others held.

    Raises
    ------
    ValueError
        As :func:`plot_sensitivity`.
    """
    if resolution is not None and not resolution > 0:
        raise ValueError(f"resolution is {resolution!r}; expected wavelength / FWHM, above 0")
    own = emulator.resolution or np.inf
    if resolution is not None and resolution > own:
        raise ValueError(f"resolution is {resolution:g}, but '{emulator.name}' gives spectra of "
                         f"R = {own:g}: ask for no more")
    pixels = torch.as_tensor(emulator.pixels, device=emulator.device)
    emulator(labels, pixels[:1])  # which says what is wrong with them
    matrix, offset = emulator.labels.affine(list(labels))
    values = matrix @ np.array(list(labels.values()), dtype=float) + offset
    star = torch.as_tensor(values[None], dtype=torch.float64, device=emulator.device)
    ways = torch.eye(len(emulator.labels), dtype=torch.float64, device=emulator.device)
    flux, tangents = emulator.flux_and_tangents(star, ways, pixels)
    found = torch.cat([flux, tangents[:, 0]]).double().cpu().numpy()
    if resolution is not None and resolution < own:
        from scipy.ndimage import gaussian_filter1d

        refuse_uneven(emulator, "leave resolution out")
        # The squares of widths add up: what the spectra have been convolved with is there.
        missing = np.sqrt((1.0 / resolution) ** 2 - (1.0 / own) ** 2)
        width = SIGMA_PER_FWHM * missing / emulator.log_step
        found = gaussian_filter1d(found, width, axis=-1, mode="nearest")
    return found[0], found[1:]


def _draw(axes: Any, emulator: Emulator, row: int, change: NDArray[np.float64]) -> None:
    name, unit = emulator.labels.names[row], emulator.labels.units[row]
    step = _step(unit)
    percent = 100.0 * step * change
    axes.fill_between(emulator.pixels, percent, 0.0, where=percent >= 0, color=VERMILION, lw=0)
    axes.fill_between(emulator.pixels, percent, 0.0, where=percent < 0, color=BLUE, lw=0)
    axes.axhline(0.0, color=GREY, lw=0.6)
    reach = 1.1 * max(float(np.abs(percent).max()), 1e-6)
    axes.set_ylim(-reach, reach)
    axes.set_yticks([-0.8 * reach, 0.8 * reach], [f"{-0.8 * reach:.2g}", f"{0.8 * reach:.2g}"])
    axes.tick_params(labelsize=7)
    axes.set_ylabel(f"{pretty(name)}\n+{step:g} {unit}", rotation=0, ha="right", va="center",
                    fontsize=9)


def _step(unit: str) -> float:
    return STEPS.get(unit, 0.01)


def pretty(name: str) -> str:
    """Return a label as the field writes it: ``[Fe/H]`` for ``fe_h``."""
    known = {"teff": "Teff", "logg": "log g", "vmic": "vmic", "he_frac": "He fraction"}
    return known.get(name) or (f"[{name[:-2].capitalize()}/H]" if name.endswith("_h") else name)


def _headline(
    emulator: Emulator, labels: Mapping[str, float], resolution: float | None
) -> str:
    star = ", ".join(f"{pretty(n)} = {v:g}" for n, v in labels.items())
    seen = f", R = {resolution:g}" if resolution else ""
    return (f"{emulator.name}{seen}, {star}\nbelow: change of the flux in % of the continuum, each "
            "label moved alone")
