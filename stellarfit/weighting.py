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
from scipy.optimize import minimize
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
#: principal components of the errors that together hold less of their square are left out, and
#: the others made to hold it
NEGLIGIBLE = 0.05


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
    sample = emulator.errors.near(labels, emulator.labels)[:, model.pixels]
    squares, vectors = torch.linalg.eigh(sample @ sample.T)      # in rising order
    counts = squares.cumsum(0) > NEGLIGIBLE * squares.sum()
    held = squares[counts].sum() / squares.sum()
    modes = (vectors[:, counts].T @ sample / torch.sqrt(held)).float().to(emulator.device)
    seen = model.through(modes, at).double()
    square = (seen**2).sum(0)
    width = torch.cat([square.new_full((part.shape[1],), width_of(part))
                       for part in torch.split(seen, [len(arm) for arm in model.arms], dim=1)])
    return EmulatorNoise(square, np.sqrt(common) * seen, (1.0 - common) * width * square)


def width_of(errors: Tensor) -> float:
    """Return over how many pixels errors (n_sample, n_pix) hang together, beyond what all share.

    That is the sum of their autocorrelation, in units of each pixel's rms, over the lags at which
    it is above the mean correlation of all pixels, both less that mean and divided by 1 less it.
    """
    rms = torch.sqrt((errors**2).mean(0))
    white = errors / torch.where(rms > 0, rms, 1.0)
    count = white.shape[1]
    power = torch.fft.rfft(white, 2 * count).abs() ** 2
    lagged = torch.fft.irfft(power, 2 * count)[:, :count].mean(0)
    pairs = (lagged / torch.arange(count, 0, -1, device=lagged.device)).cpu().numpy()
    shared = float((white.mean(1) ** 2).mean())
    if not pairs[0] > shared:
        return 1.0
    above = (pairs - shared) / (pairs[0] - shared)
    end = int(np.argmin(above > 0)) or count
    return float(1.0 + 2.0 * above[1:end].sum())


def most_likely(residual: Array, variance: Array, how: Weighting) -> tuple[float, float, Array]:
    """Return the jitter and the fraction of outliers that make residuals (n,) most likely.

    Returns
    -------
    jitter : float
    fraction : float
    factor : (n,) array
        What the squared weight of a pixel is multiplied by, P + (1 - P) / s^2.
    """
    unit = float(np.median(variance) + np.median(np.abs(residual)) ** 2)
    lost = np.log(OUTLIER)

    def parts(q: float, f: float) -> tuple[Array, Array, Array, Array]:
        total = variance + q * unit
        square = residual**2 / total
        good = np.log1p(-f) - 0.5 * square
        bad = (np.log(f) if f > 0 else -np.inf) - lost - 0.5 * square / OUTLIER**2
        either = np.logaddexp(good, bad)
        return total, square, np.exp(good - either), either

    def loss(x: Array) -> tuple[float, Array]:
        total, square, good, either = parts(*x)
        factor = good + (1.0 - good) / OUTLIER**2
        slope = [np.mean((1.0 - factor * square) / total) * 0.5 * unit,
                 np.mean(good / (1.0 - x[1]) - (1.0 - good) / max(x[1], 1e-300))]
        return float(np.mean(0.5 * np.log(total) - either)), np.array(slope)

    spread = (1.4826 * np.median(np.abs(residual))) ** 2
    start = [max(0.0, spread / unit - np.median(variance) / unit) * how.jitter, 0.02 * how.robust]
    limits = [(0.0, None if how.jitter else 0.0),
              (1e-4, LARGEST_FRACTION) if how.robust else (0.0, 0.0)]
    q, fraction = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits,
                           options={"gtol": 1e-10, "ftol": 1e-13}).x
    good = parts(q, fraction)[2]
    return float(np.sqrt(q * unit)), float(fraction), good + (1.0 - good) / OUTLIER**2


def judge(
    residual: Array, variance: Array, how: Weighting
) -> tuple[float, Array, dict[str, float]]:
    """Return the jitter, the factors (n,) for squared weights, and what was found.

    Parameters
    ----------
    residual, variance : (n,) arrays
        In units of the continuum.

    Returns
    -------
    jitter : float
    factor : (n,) array
    found : dict of str to float
        ``jitter`` and ``outliers`` (their fraction), where they are asked for, and ``excess``:
        the mean of residual^2 / variance, outliers at their weight, before any jitter.
    """
    if len(residual) == 0:
        return 0.0, np.ones(0), {"excess": 0.0}
    jitter, fraction, factor = most_likely(residual, variance, how)
    found = {"excess": float(np.mean(factor * residual**2 / variance))}
    if how.jitter:
        found["jitter"] = jitter
    if how.robust:
        found["outliers"] = fraction
    return jitter, factor, found
