"""The model card of an emulator: what was measured of it on spectra it was not trained on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from emulators.emulator import Emulator
from emulators.error_model import REGION
from emulators.grid import Grid
from emulators.labels import is_abundance
from emulators.metrics import emulate, evaluate, flux_metrics, judged_flux

Array = NDArray[np.float64]

#: true flux at the borders between line cores, wings and continuum
DEPTHS = {"cores": (-np.inf, 0.5), "wings": (0.5, 0.95), "continuum": (0.95, np.inf)}
#: elements whose derivatives a card tells, training spectra that say how large they are
MOST, LEARNT = 8, 3_000


def card(
    emulator: Emulator, grid: Grid | str | Path, *, split: str = "validation", bins: int = 4
) -> dict[str, Any]:
    """Measure an emulator on a split of a grid.

    Unknown fluxes (NaN) and pixels of weight 0 are left out.

    Parameters
    ----------
    emulator : Emulator
    grid : Grid or path
    split : str
    bins : int
        In each of Teff, log g and [Fe/H], with equal numbers of spectra.

    Returns
    -------
    dict
        JSON-able: ``overall`` (the six measures of :func:`emulators.evaluate`), ``bins``
        by label, ``depths`` (MAE and bias of cores, wings and continuum), ``differences``
        (see `differences`), ``derivatives`` (see `mean_derivatives`),
        ``smoothness`` (see `roughness`).

    Raises
    ------
    ValueError
        As :func:`emulators.evaluate`.
    """
    grid = grid if isinstance(grid, Grid) else Grid(grid)
    overall, rows = evaluate(emulator, grid, split=split), grid.rows(split)
    emulated = emulate(emulator, grid, rows).astype(float)
    true = judged_flux(grid, rows).astype(float)
    return {
        "grid": grid.path.name, "split": split, "n_spectra": len(rows),
        "overall": overall,
        "bins": {n: _by_bin(grid.labels[rows, grid.label_set.index(n)], emulated, true, bins)
                 for n in REGION if n in grid.label_set.names},
        "depths": _by_depth(emulated, true),
        "differences": differences(grid, rows, emulated, true),
        "derivatives": mean_derivatives(grid, rows, emulated, true),
        "smoothness": roughness(emulator, grid, rows),
    }


def _by_bin(values: Array, emulated: Array, true: Array, bins: int) -> list[dict[str, float]]:
    """Return the errors in bins of a label with equal numbers of spectra."""
    edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, bins + 1)))
    rows = []
    for low, high in pairwise(edges):  # none where it does not vary
        inside = (values >= low) & ((values < high) | (high == edges[-1]))
        if not np.isfinite(true[inside]).any():  # there may be fewer spectra than bins
            continue
        measured = flux_metrics(emulated[inside], true[inside])
        rows.append({"low": float(low), "high": float(high), "n": int(inside.sum()),
                     **{k: measured[k] for k in ("mae", "maxae", "qae95")}})
    return rows


def _by_depth(emulated: Array, true: Array) -> dict[str, dict[str, float]]:
    """Return error and bias of line cores, wings and continuum."""
    result, known = {}, int(np.isfinite(true).sum())
    for name, (low, high) in DEPTHS.items():
        error = (emulated - true)[(true >= low) & (true < high)]
        if error.size:
            result[name] = {"fraction": error.size / known, "bias": float(error.mean()),
                            "mae": float(np.abs(error).mean())}
    return result


def differences(grid: Grid, rows: NDArray[np.int64], emulated: Array, true: Array
                ) -> dict[str, float]:
    """Return how well an emulator knows the change from one grid spectrum to another.

    An emulator's difference between two stars is the integral of its derivatives with
    respect to the labels along the way.  Each star is paired with the one nearest in scaled
    labels; ``relative`` is the rms error of the differences over the rms of the true ones,
    ``slope`` the coefficient of the emulated difference regressed on the true one, 1 for a
    perfect emulator.  Empty for fewer than two stars.
    """
    if len(rows) < 2:
        return {}
    scaled = grid.label_set.scale(grid.labels[rows])
    distance = cdist(scaled, scaled, "sqeuclidean")
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(axis=1)
    change, emulated_change = true[nearest] - true, emulated[nearest] - emulated
    error = emulated_change - change
    square = float(np.nanmean(change**2))
    return {"relative": float(np.sqrt(np.nanmean(error**2) / square)),
            "slope": float(np.nanmean(emulated_change * change) / square)}


def mean_derivatives(grid: Grid, rows: NDArray[np.int64], emulated: Array, true: Array
                     ) -> dict[str, dict[str, float]]:
    """Return how well an emulator knows what each label does, on average over its domain.

    A grid of random labels has no two spectra that differ in one label alone, but a linear
    regression of fluxes on all labels gives, per pixel, each label's mean derivative.  Labels
    are scaled, elements are ratios to iron where there is iron.  Per label: ``effect``, the
    rms over pixels of the mean derivative of the true fluxes (of up to `LEARNT` training
    spectra: the more, the less noise); ``relative``, the rms over pixels of the mean derivative
    of the emulator's errors at `rows`, over that; ``slope``, the regression of the emulated
    mean derivative on the true one, 1 for a perfect emulator.  Of the elements, the `MOST` of
    largest effect.  Empty where there are too few spectra for the labels.
    """
    learnt = grid.rows("train")[:LEARNT]
    flux, error = grid.flux(learnt).astype(float), emulated - true
    known = np.isfinite(flux).all(axis=0) & np.isfinite(error).all(axis=0)
    names, varies, labels = _as_ratios(grid)
    if min(len(learnt), len(rows)) < 2 + varies.sum() or not known.any():
        return {}
    right = _slopes(labels[np.ix_(learnt, varies)], flux[:, known])
    wrong = _slopes(labels[np.ix_(rows, varies)], error[:, known])
    measured = {}
    for name, a, e in zip(np.array(names)[varies].tolist(), right, wrong, strict=True):
        square = float(np.mean(a**2))
        measured[name] = {"effect": square**0.5,
                          "relative": float(np.sqrt(np.mean(e**2) / square)),
                          "slope": 1.0 + float(np.mean(e * a)) / square}
    elements = sorted((n for n in measured if n != "fe_h" and n.endswith(("_fe", "_h"))),
                      key=lambda n: -measured[n]["effect"])
    return {n: m for n, m in measured.items() if n not in elements[MOST:]}


def _as_ratios(grid: Grid) -> tuple[list[str], NDArray[np.bool_], Array]:
    """Return names, which of them vary, and scaled labels, with elements relative to iron."""
    names, labels = list(grid.label_set.names), grid.label_set.scale(grid.labels)
    varies = labels.std(axis=0) > 0.0
    if "fe_h" in names:
        iron = names.index("fe_h")
        for i, name in enumerate(names):
            if is_abundance(name) and i != iron:
                names[i] = name[:-2] + "_fe"
                labels[:, i] -= labels[:, iron]
    return names, varies, labels


def _slopes(labels: Array, flux: Array) -> Array:
    """Return the coefficients (n_label, n_pix) of a linear regression of flux on labels."""
    design = np.column_stack([labels - labels.mean(axis=0), np.ones(len(labels))])
    return np.asarray(np.linalg.pinv(design)[:-1] @ flux)


def roughness(
    emulator: Emulator, grid: Grid, rows: NDArray[np.int64], *, stars: int = 4, steps: int = 31
) -> dict[str, float]:
    """Return how far scans along single labels are from smooth curves.

    From some stars each of Teff, log g and [Fe/H] is moved through a tenth of its range
    (all elements move with iron), and every pixel's curve is compared with its best cubic:
    the 99.9th percentile of the distance, in units of the continuum.  Physics has no ripple
    there; a network may.
    """
    result = {}
    order = np.array([grid.label_set.index(n) for n in emulator.labels.names])
    for name in (n for n in REGION if n in emulator.labels.names):
        column = emulator.labels.index(name)
        moved = [column] if name != "fe_h" else [
            i for i, n in enumerate(emulator.labels.names) if n.endswith("_h")]
        width = 0.1 * (emulator.labels.high[column] - emulator.labels.low[column])
        x = np.linspace(-0.5, 0.5, steps)
        smooth = np.polynomial.chebyshev.chebvander(2 * x, 3)
        residual_of = np.eye(steps) - smooth @ np.linalg.pinv(smooth)
        ripple = []
        for star in grid.labels[np.ix_(rows[:stars], order)]:
            labels = np.tile(star, (steps, 1))
            labels[:, moved] += (width * x)[:, None]
            with torch.inference_mode():
                flux = emulator.flux(
                    torch.as_tensor(labels, device=emulator.device),
                    torch.as_tensor(emulator.pixels, device=emulator.device))
            ripple.append(np.abs(residual_of @ flux.double().cpu().numpy()))
        result[name] = float(np.quantile(ripple, 0.999))
    return result
