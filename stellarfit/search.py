"""Where a fit starts: radial velocity and rough labels, by cross-correlation.

A few dozen template spectra, spread over the emulator's domain and broadened to the
instrument's resolution (each with little and with much rotation), are compared with the
data at every velocity.  For a template T, data y and inverse variances w the chi-square of
the best-scaled template at velocity v is

    chi2(v) = sum w y^2 - [sum w y T(v)]^2 / sum w T(v)^2,

whose sums over pixels are correlations, taken for all velocities at once by FFT.  What is
maximised is the gain over a featureless spectrum on the same pixels, so that pixels that
leave the emulator's range with the shift neither help nor harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import correlate
from scipy.stats import qmc
from torch import Tensor

from emulators import Emulator
from stellarfit.doppler import SPEED_OF_LIGHT
from stellarfit.lsf import SIGMA_PER_FWHM
from stellarfit.parameters import STAGES, Parameters
from stellarfit.polytope import bounding_box, nearest
from stellarfit.rotation import LIMB_DARKENING, nodes_for, rotate

Array = NDArray[np.float64]
TEMPLATE_VSINI = (3.0, 40.0)


@dataclass(frozen=True, eq=False)
class Start:
    """A first guess.

    Attributes
    ----------
    theta : (n_free,) float64
    rv, vsini : float
        km/s.
    gain : float
        By how much chi-square falls below that of a featureless spectrum.
    """

    theta: Array
    rv: float
    vsini: float
    gain: float


def search(
    emulator: Emulator, parameters: Parameters, wavelength: Array, flux: Array, ivar: Array, *,
    resolution: float, largest_rv: float = 500.0, templates: int = 32, seed: int = 0,
) -> list[Start]:
    """Return first guesses, the best first.

    Parameters
    ----------
    wavelength, flux, ivar : (n_pix,)
        Observed, in the emulator's medium; ivar is 0 where a pixel is to be ignored.
    resolution : float
        Of the instrument.
    largest_rv : float
        Velocities up to this (km/s) are tried; only the fixed one if rv is fixed.
    templates : int
        Number of label vectors.
    seed : int
        Of the label vectors.
    """
    fixed = parameters.fixed_stages
    step = emulator.log_step
    theta = _template_parameters(parameters, templates, seed)
    vsini = (fixed["vsini"],) if "vsini" in fixed else TEMPLATE_VSINI
    lags = int(np.ceil(largest_rv / SPEED_OF_LIGHT / step))
    centre = round(np.arctanh(fixed.get("rv", 0.0) / SPEED_OF_LIGHT) / step)
    if "rv" in fixed:
        lags = 1
    data, weight = _on_log_grid(emulator, wavelength, flux, ivar, centre - lags, centre + lags)

    sharp = _sharp_templates(emulator, parameters, theta)
    starts = []
    for v in vsini:
        for row, template in zip(theta, _broadened(sharp, v, resolution, step), strict=True):
            gain = _gain(template, data, weight)
            best = int(np.argmax(gain))
            lag = centre - lags + best + _peak_offset(gain, best)
            rv = fixed.get("rv", SPEED_OF_LIGHT * np.tanh(lag * step))
            starts.append(_start(parameters, row, float(rv), float(v), float(gain[best])))
    return sorted(starts, key=lambda s: -s.gain)


def _template_parameters(parameters: Parameters, count: int, seed: int) -> Array:
    """Return free vectors (count, n_free) spread evenly over the domain.

    Ratios to iron stay at zero, or as near as the domain allows: they change a spectrum
    far less than the rest.
    """
    low, high = bounding_box(parameters.G, parameters.h)
    moving = [i for i, n in enumerate(parameters.names)
              if n not in STAGES and not n.endswith("_fe")]
    unit = qmc.Sobol(max(1, len(moving)), seed=seed).random_base2(int(np.ceil(np.log2(count))))
    points = np.tile(np.clip(0.0, low, high), (len(unit), 1))
    for column, i in enumerate(moving):
        points[:, i] = low[i] + unit[:, column] * (high[i] - low[i])
    for i, name in enumerate(parameters.names):
        if name in STAGES:
            harmless = {"vsini": 5.0, "epsilon": LIMB_DARKENING,
                        "resolution": parameters.resolution}.get(name, 0.0)
            points[:, i] = np.clip(harmless, low[i], high[i])
    return np.array([nearest(p, parameters.scale, parameters.G, parameters.h) for p in points])


def _log_grid(emulator: Emulator) -> tuple[float, float, int]:
    """Return start, step and number of points of the templates' grid in ln(wavelength)."""
    low, high = np.log(emulator.wavelength_range)
    return float(low), emulator.log_step, int((high - low) / emulator.log_step + 1e-3) + 1


def _sharp_templates(emulator: Emulator, parameters: Parameters, theta: Array) -> Tensor:
    """Return the templates' spectra (n_template, n_grid) on the emulator's log grid."""
    low, step, count = _log_grid(emulator)
    grid = np.exp(low + step * np.arange(count)).clip(*emulator.wavelength_range)
    labels = torch.as_tensor(theta @ parameters.A.T + parameters.b, device=emulator.device)
    with torch.inference_mode():
        return emulator.flux(labels, torch.as_tensor(grid, device=emulator.device)).double()


def _broadened(sharp: Tensor, vsini: float, resolution: float, step: float) -> Array:
    """Return templates broadened by rotation and instrument, their continuum normalised."""
    with torch.inference_mode():
        rotated = rotate(sharp, torch.full((len(sharp),), vsini, device=sharp.device),
                         log_step=step, nodes=nodes_for(vsini, step)).cpu().numpy()
    x, even = np.arange(rotated.shape[1], dtype=float), np.ones(rotated.shape[1])
    smooth = _smooth(rotated, SIGMA_PER_FWHM / resolution / step)
    return np.array([t / _upper_continuum(x, t, even) for t in smooth])


def _smooth(flux: Array, sigma: float) -> Array:
    """Convolve rows with a Gaussian of sigma pixels."""
    if sigma <= 0.3:
        return flux
    return np.asarray(gaussian_filter1d(flux, sigma, axis=-1, mode="nearest"))


def _upper_continuum(x: Array, y: Array, weight: Array, degree: int = 3) -> Array:
    """Return a polynomial through the upper part of a spectrum: lines are clipped away."""
    scaled = 2.0 * (x - x[0]) / (x[-1] - x[0]) - 1.0
    good = weight > 0
    keep = good.copy()
    degree = max(0, min(degree, int(good.sum()) - 1))
    for _ in range(6):
        fit = chebyshev.Chebyshev.fit(scaled[keep], y[keep], degree, domain=[-1, 1])
        residual = y - fit(scaled)
        scatter = 1.4826 * np.median(np.abs(residual[keep])) + 1e-12
        wanted = good & (residual > -1.0 * scatter) & (residual < 4.0 * scatter)
        if wanted.sum() < 4 * (degree + 1):
            break
        keep = wanted
    level = np.median(y[good])
    return np.asarray(np.maximum(fit(scaled), 0.1 * abs(level) + 1e-30))


def _on_log_grid(
    emulator: Emulator, wavelength: Array, flux: Array, ivar: Array, first: int, last: int
) -> tuple[Array, Array]:
    """Return normalised data and weights on the templates' grid extended by first..last steps.

    Pixels finer than the grid are averaged with their weights, coarser ones interpolated:
    good enough for a first guess, and for nothing else.
    """
    low, step, count = _log_grid(emulator)
    continuum = _upper_continuum(wavelength, flux, ivar)
    y, w = flux / continuum, ivar * continuum**2
    place = (np.log(wavelength) - low) / step - first
    size = count + last - first
    edges = np.arange(size + 1) - 0.5
    weight, _ = np.histogram(place, edges, weights=w)
    total, _ = np.histogram(place, edges, weights=w * y)
    if np.median(np.diff(place)) > 1.0:
        nearest_pixel = np.clip(np.searchsorted(place, np.arange(size)), 1, len(place) - 1)
        usable = (w[nearest_pixel] > 0) & (w[nearest_pixel - 1] > 0)
        inside = (np.arange(size) >= place[0]) & (np.arange(size) <= place[-1])
        share = 1.0 / np.median(np.diff(place))
        weight = np.where(usable & inside, np.interp(np.arange(size), place, w) * share, 0.0)
        total = weight * np.interp(np.arange(size), place, y)
    data = np.divide(total, weight, out=np.ones(size), where=weight > 0)
    return data, weight


def _gain(template: Array, data: Array, weight: Array) -> Array:
    """Return, per lag, by how much the template beats a featureless spectrum."""
    def sums(kernel: Array, series: Array) -> Array:
        return np.asarray(correlate(series, kernel, mode="valid", method="fft"))

    one = np.ones_like(template)
    w, wy = sums(one, weight), sums(one, weight * data)
    wtt, wyt = sums(template**2, weight), sums(template, weight * data)
    floor = 1e-9 * weight.sum()
    return np.asarray(wyt**2 / np.maximum(wtt, floor) - wy**2 / np.maximum(w, floor))


def _peak_offset(gain: Array, best: int) -> float:
    """Return the vertex, in lags, of the parabola through a peak and its neighbours."""
    if not 0 < best < len(gain) - 1:
        return 0.0
    left, top, right = gain[best - 1:best + 2]
    curvature = left - 2.0 * top + right
    return float(0.5 * (left - right) / curvature) if curvature < 0 else 0.0


def _start(parameters: Parameters, theta: Array, rv: float, vsini: float, gain: float) -> Start:
    theta = theta.copy()
    for name, value in (("rv", rv), ("vsini", vsini)):
        if name in parameters.names:
            theta[parameters.names.index(name)] = value
    return Start(theta, rv, vsini, gain)
