"""What the noise of a spectrum is made of, beyond what its file says.

To the variance of every pixel come, at the star that the fit has found,

- the emulator's own error, whose sample of signed errors has been sent through the same
  stages as the flux: half of its square is taken as independent between pixels, half as
  modes in which pixels move together, for a network's errors are neither the one nor the
  other;
- the error of the physics, as a star of known labels shows it (`calibration`);
- a jitter, the same fraction of the continuum in all pixels: the value at which the residuals
  have the variance that the noise says (maximum likelihood), 0 where they have it already;

and the weight of a pixel that looks like an outlier falls.  With P_i the probability that
pixel i is none, in the mixture of Hogg, Bovy & Lang 2010 (arXiv:1008.4686, eq. 17),

    p(r) = (1 - f) N(r; 0, 1) + f N(r; 0, s^2),

the expectation-maximisation step for the star multiplies its squared weight by
P_i + (1 - P_i) / s^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from stellarfit.forward import ForwardModel

Array = NDArray[np.float64]
#: share of the emulator's squared error that is taken as common to many pixels
COMMON = 0.5
#: an outlier's sigma, in sigma
OUTLIER = 10.0
LARGEST_FRACTION = 0.2
#: a sample's errors that count for less than this are left out
LEAST_WEIGHT = 1e-3
SETTLING = 4


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


def emulator_modes(model: ForwardModel, theta: Array) -> Tensor | None:
    """Return the emulator's errors near theta (n_free,) as modes (n_mode, n_pix).

    The sum of their squares is the mean square error of the normalised flux at each pixel.
    None when the emulator brings no sample of its errors.
    """
    emulator = model.emulator
    if emulator.errors is None:
        return None
    at = torch.as_tensor(theta, dtype=torch.float64, device=emulator.device)
    labels = model.labels(at[None])[0].cpu().numpy()
    weights = emulator.errors.weights(labels, emulator.labels)
    counts = weights > LEAST_WEIGHT * weights.max()
    sample = emulator.errors.errors[counts][:, model.pixels].to(emulator.device)
    observed = model.through(sample, at).double()
    share = (weights[counts] / weights[counts].sum()).to(observed.device)
    return torch.sqrt(share)[:, None] * observed


def jitter_of(residual: Array, variance: Array, factor: Array | float = 1.0) -> float:
    """Return the sigma that, added to `variance`, makes residuals (n,) most likely.

    Outliers count by their `factor` (n,), as :func:`outlier_weights` gives it.
    """
    def slope(j: float) -> float:
        total = variance + j**2
        return float(np.mean(factor * (residual**2 / total**2 - 1.0 / total)))

    largest = 10.0 * float(np.sqrt(np.mean(residual**2))) + 1e-12
    if len(residual) == 0 or slope(0.0) <= 0:
        return 0.0
    return float(brentq(slope, 0.0, largest, xtol=1e-6 * largest))


def outlier_weights(residual: Array) -> tuple[Array, float]:
    """Return factors (n,) for the squared weights of whitened residuals, and f, their fraction."""
    fraction, good = 0.02, np.ones(len(residual))
    log_ratio = -0.5 * residual**2 * (OUTLIER**-2 - 1.0) - np.log(OUTLIER)
    for _ in range(50):
        ratio = fraction / (1.0 - fraction) * np.exp(np.minimum(log_ratio, 700.0))
        good = 1.0 / (1.0 + ratio)
        previous, fraction = fraction, float(np.clip(1.0 - good.mean(), 1e-4, LARGEST_FRACTION))
        if abs(fraction - previous) < 1e-4:
            break
    return good + (1.0 - good) / OUTLIER**2, fraction


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
    jitter, factor, found = 0.0, np.ones(len(residual)), {}
    # Outliers inflate the jitter that decides what is an outlier: both settle in a few rounds.
    for _ in range(SETTLING if how.jitter and how.robust else 1):
        if how.jitter:
            jitter = found["jitter"] = jitter_of(residual, variance, factor)
        if how.robust:
            factor, found["outliers"] = outlier_weights(residual / np.sqrt(variance + jitter**2))
    found["excess"] = float(np.mean(factor * residual**2 / variance)) if len(residual) else 0.0
    return jitter, factor, found
