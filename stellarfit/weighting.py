"""What the noise of a spectrum is made of, beyond what its file says.

To the variance of every pixel come, at the star that the fit has found,

- the emulator's own error, whose sample of signed errors has been sent through the same
  stages as the flux: most of its square as the sample's modes, in which pixels move together,
  the rest, since a few dozen spectra do not hold every mode there is, as what only
  neighbours share;
- the error of the physics, as a star of known labels shows it (`calibration`);
- a jitter j, the same fraction of the continuum in all pixels;

and the weight of a pixel that looks like an outlier falls.  Jitter and the fraction f of
outliers are those that make the residuals r most likely, in units of the continuum, in the
mixture of Hogg, Bovy & Lang 2010 (arXiv:1008.4686, eq. 17),

    p(r) = (1 - f) N(r; 0, v + j^2) + f N(r; 0, s^2 (v + j^2)).

With P the probability that a pixel is no outlier, the expectation-maximisation step for the
star multiplies its squared weight by P + (1 - P) / s^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

from stellarfit.forward import ForwardModel

Array = NDArray[np.float64]
#: share of the emulator's squared error that the modes of its sample hold.  Chosen for the most
#: likely errors of every other validation star (``benchmarks/error_modes.py``)
COMMON = 0.8
#: an outlier's sigma, in sigma
OUTLIER = 10.0
#: of outliers that the mixture may expect
LARGEST_FRACTION = 0.05
#: turns of the search for jitter and outliers; a few suffice
MOST_TURNS = 200


@dataclass(frozen=True)
class Weighting:
    """What a fit adds to the noise it is given.

    Attributes
    ----------
    emulator_error : bool
    jitter : bool
    robust : bool
        Weigh outliers down.
    correlation : float
        Of neighbouring pixels, after a resampling.
    """

    emulator_error: bool = True
    jitter: bool = True
    robust: bool = True
    correlation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("emulator_error", "jitter", "robust"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected True or False")


@dataclass(frozen=True, eq=False)
class EmulatorNoise:
    """What the emulator's errors add to the noise of a normalised flux.

    Attributes
    ----------
    square : (n_pix,) float64
        The mean square error.
    modes : (n_mode, n_pix) float64
        In which pixels move together.  The sum of their squares is ``common`` of the mean square.
    alone : (n_pix,) float64
        The variance that stands for the rest.  Where it moves the pixels of some width together,
        independent pixels, as if there were as many more of them, need that many times as much.
    """

    square: Tensor
    modes: Tensor
    alone: Tensor


def emulator_noise(
    model: ForwardModel, theta: Array, common: float = COMMON
) -> EmulatorNoise | None:
    """Return what the emulator's errors near theta (n_free,) add to the noise.

    None when the emulator brings no sample of its errors.
    """
    emulator = model.emulator
    if emulator.errors is None:
        return None
    at = torch.as_tensor(theta, dtype=torch.float64, device=emulator.device)
    labels = model.labels(at[None])[0].cpu().numpy()
    modes = emulator.errors.modes(labels, emulator.labels)[:, model.pixels]
    seen = model.through(modes.to(emulator.device), at)
    square = (seen**2).sum(0)
    width = torch.cat([square.new_full((part.shape[1],), width_of(part))
                       for part in torch.split(seen, [len(arm) for arm in model.arms], dim=1)])
    seen, square = np.sqrt(common) * seen.double(), square.double()
    return EmulatorNoise(square, seen, (1.0 - common) * width * square)


def width_of(errors: Tensor) -> float:
    """Return over how many pixels errors (n_sample, n_pix) hang together, beyond what all share.

    That is the sum of their autocorrelation, in units of each pixel's rms, over the lags at which
    it is above the mean correlation of all pixels, both less that mean and divided by 1 less it.
    """
    rms = torch.sqrt((errors**2).mean(0))
    white = errors / torch.where(rms > 0, rms, 1.0)
    count = white.shape[1]
    length = next_fast_len(2 * count, real=True)
    waves = torch.view_as_real(torch.fft.rfft(white.float(), length))
    power = (waves**2).sum(-1).mean(0, dtype=torch.float64)
    lagged = torch.fft.irfft(power, length)[:count]
    pairs = (lagged / torch.arange(count, 0, -1, device=lagged.device)).cpu().numpy()
    shared = float((white.mean(1) ** 2).mean())
    if not pairs[0] > shared:
        return 1.0
    above = (pairs - shared) / (pairs[0] - shared)
    end = int(np.argmin(above > 0)) or count
    return float(1.0 + 2.0 * above[1:end].sum())


def most_likely(
    residual: Array, variance: Array, how: Weighting, used: NDArray[np.bool_] | None = None
) -> tuple[Array, Array, Array]:
    """Return the jitter and the fraction of outliers that make residuals most likely.

    Both climb by turns, stars side by side: the fraction by Newton's method, along which its
    likelihood is concave; the jitter by Fisher scoring with outliers at their weight.

    Parameters
    ----------
    residual, variance : (n_star, n) arrays
    used : (n_star, n) bool, optional
        The others do not count.

    Returns
    -------
    jitter, fraction : (n_star,) arrays
    factor : (n_star, n) array
        What the squared weight of a pixel is multiplied by, P + (1 - P) / s^2.
    """
    used = np.ones(residual.shape, dtype=bool) if used is None else used
    typical = _median(variance, used)
    spread = _median(np.abs(residual), used)
    unit = typical + spread**2
    unit = np.where(unit > 0, unit, 1.0)
    v = np.where(used, variance / unit[:, None], 1.0)
    square = np.where(used, residual**2 / unit[:, None], 0.0)
    q = np.maximum(0.0, ((1.4826 * spread) ** 2 - typical) / unit) * how.jitter
    f = np.full(len(q), 0.02 * how.robust)

    def chances(some: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return the variance, and by how much likelier an outlier is than another pixel."""
        total = v[some] + q[some, None]
        exponent = 0.5 * (1.0 - OUTLIER**-2) * square[some] / total
        return total, np.where(used[some], np.exp(np.minimum(exponent, 600.0)) / OUTLIER, 1.0)

    def factors(some: NDArray[np.int64], ratio: Array) -> Array:
        good = 1.0 / (1.0 + f[some, None] / (1.0 - f[some, None]) * ratio)
        return np.asarray(good + (1.0 - good) / OUTLIER**2)

    active = np.arange(len(q))
    for _ in range(MOST_TURNS):
        total, ratio = chances(active)
        before = q[active].copy(), f[active].copy()
        if how.robust:
            slope = (ratio - 1.0) / (1.0 + f[active, None] * (ratio - 1.0))
            steepest = np.maximum((slope**2).sum(1), 1e-300)
            f[active] = (f[active] + slope.sum(1) / steepest).clip(1e-4, LARGEST_FRACTION)
        if how.jitter:
            excess = factors(active, ratio) * square[active] - total
            weight = used[active] / total**2
            q[active] = np.maximum(
                0.0, q[active] + (weight * excess).sum(1) / np.maximum(weight.sum(1), 1e-300))
        moved = (np.abs(q[active] - before[0]) > 1e-6 * (q[active] + 1e-3)) | (
            np.abs(f[active] - before[1]) > 1e-6)
        active = active[moved]
        if not len(active):
            break
    everyone = np.arange(len(q))
    found = np.where(used, factors(everyone, chances(everyone)[1]), 1.0)
    return np.sqrt(q * unit) * (used.any(1)), f, found


def _median(values: Array, used: NDArray[np.bool_]) -> Array:
    """Return the median of each row's used values; 0 where there are none."""
    held = np.sort(np.where(used, values, np.inf), axis=1)
    count = used.sum(1)
    rows = np.arange(len(values))
    middle = 0.5 * (held[rows, np.maximum(0, (count - 1) // 2)]
                    + held[rows, np.minimum(values.shape[1] - 1, count // 2)])
    return np.where(count > 0, middle, 0.0)


def judge(
    residual: Array, variance: Array, how: Weighting, used: NDArray[np.bool_]
) -> tuple[Array, Array, dict[str, Array]]:
    """Return the jitter, the factors for squared weights, and what was found.

    Parameters
    ----------
    residual, variance : (n_star, n) arrays
        In units of the continuum.
    used : (n_star, n) bool

    Returns
    -------
    jitter : (n_star,) array
    factor : (n_star, n) array
    found : dict of str to (n_star,) array
        ``jitter`` and ``outliers`` (their fraction), where they are asked for, and ``excess``:
        the mean of residual^2 / variance, outliers at their weight, before any jitter.
    """
    jitter, fraction, factor = most_likely(residual, variance, how, used)
    square = np.divide(factor * residual**2, variance, out=np.zeros_like(variance), where=used)
    found = {"excess": square.sum(1) / np.maximum(1, used.sum(1))}
    if how.jitter:
        found["jitter"] = jitter
    if how.robust:
        found["outliers"] = fraction
    return jitter, factor, found
