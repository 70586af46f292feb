"""Where a fit starts: radial velocity and rough labels, by cross-correlation.

A few dozen template spectra, spread over the emulator's domain and broadened to the
instrument's resolution (each with little and with much rotation), are compared with the
data at every velocity.  For a template T, data y and inverse variances w the chi-square of
the best-scaled template at velocity v is

    chi2(v) = sum w y^2 - [sum w y T(v)]^2 / sum w T(v)^2,

whose sums over pixels are correlations, taken for all velocities at once by FFT and added
up over the arms, each with a scale of its own.  What is maximised is the gain over a
featureless spectrum on the same pixels, so that pixels that leave the emulator's range with
the shift neither help nor harm.  Where the best template's gain has several peaks, each is
a mode that a fit may have to try.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from emulators import Emulator
from stellarfit.arm import Arm
from stellarfit.constants import SIGMA_PER_FWHM, SPEED_OF_LIGHT
from stellarfit.forward import ForwardModel
from stellarfit.parameters import Parameters, stage_of
from stellarfit.polytope import nearest
from stellarfit.rotation import LIMB_DARKENING, rotate

Array = NDArray[np.float64]
TEMPLATE_VSINI = (3.0, 40.0)
LARGEST_RV = 1000.0  # km/s: beyond the escape velocity of the Galaxy anywhere
LEAST_WIDTH = 25.0  # km/s
MODES = 4
#: templates per mode that a fit may choose from
CANDIDATES = 4
#: neighbouring pixels that may be missing without a gap in a first guess
BRIDGED = 3
#: sets of templates that are kept, of which a survey needs one
KEPT = 4
_templates: dict[tuple[str, str, bytes], Tensor] = {}


@dataclass(frozen=True, eq=False)
class Start:
    """A first guess.

    Attributes
    ----------
    theta : (n_free,) float64
    rvs : (n_arm,) float64
        Velocities of the arms, km/s.
    vsini : float
        km/s.
    gain : float
        By how much chi-square falls below that of a featureless spectrum.
    """

    theta: Array
    rvs: Array
    vsini: float
    gain: float

    @property
    def rv(self) -> float:
        """Velocity of the first arm, km/s."""
        return float(self.rvs[0])


@dataclass(frozen=True, eq=False)
class Pixels:
    """What an arm holds of a star: flux and ivar (n_pix,), 0 where it is to be ignored."""

    flux: Array
    ivar: Array


class Search:
    """Template spectra as the arms would see them, and how to find a star among them.

    Parameters
    ----------
    emulator : Emulator
    parameters : Parameters
    arms : sequence of Arm
    largest_rv : float
        Velocities up to this (km/s) are tried; only the fixed one if rv is fixed.
    templates : int
        Number of label vectors.
    seed : int
        Of the label vectors.
    """

    def __init__(
        self, emulator: Emulator, parameters: Parameters, arms: Sequence[Arm], *,
        largest_rv: float = LARGEST_RV, templates: int = 32, seed: int = 0,
    ) -> None:
        self.emulator, self.parameters, self.arms = emulator, parameters, tuple(arms)
        fixed = parameters.fixed_stages
        self.step = emulator.log_step
        low, high = parameters.box
        self.theta = _template_parameters(parameters, low, high, templates, seed)
        self.vsini = (fixed["vsini"],) if "vsini" in fixed else TEMPLATE_VSINI
        rows = [i for i, n in enumerate(parameters.stages) if stage_of(n) == "rv"]
        #: which free parameter moves each arm's velocity, -1 for none
        self.mover = [int(np.argmax(parameters.stage_A[i] != 0))
                      if parameters.stage_A[i].any() else -1 for i in rows]
        # What is fixed of the velocities, each arm its own: lags are counted from there.
        self.centre = [round(np.arctanh(parameters.stage_b[i] / SPEED_OF_LIGHT) / self.step)
                       for i in rows]
        self.offset = parameters.stage_b[rows]
        self.lags = (1 if set(self.mover) == {-1}
                     else int(np.ceil(largest_rv / SPEED_OF_LIGHT / self.step)))
        #: of the parameter that moves them
        self.limits = {m: (low[m], high[m]) for m in set(self.mover) - {-1}}
        #: two velocities nearer than this, in lags, are one: a line's width
        width = max([LEAST_WIDTH, *(SPEED_OF_LIGHT / self._resolution(arm) for arm in arms)])
        self.width = max(1, round(width / SPEED_OF_LIGHT / self.step))

    def tell(self, model: ForwardModel) -> None:
        """Let a model, the emulator's, know the templates' spectra: its stars begin there."""
        sharp = _sharp_templates(self.emulator, self.parameters, self.theta)
        labels = model.labels(torch.as_tensor(self.theta, device=sharp.device))
        model.at_rest.tell(labels, sharp[:, model.pixels].to(self.emulator.dtype))

    @cached_property
    def _spectra(self) -> dict[float, list[Array]]:
        """Templates (n_template, n_grid) at each vsini and resolution, per resolution."""
        sharp = _sharp_templates(self.emulator, self.parameters, self.theta)
        return {r: [_broadened(sharp, v, r, self.step) for v in self.vsini]
                for r in {self._resolution(arm) for arm in self.arms}}

    @cached_property
    def _kernels(self) -> dict[float, list[Kernels]]:
        """The templates, transformed."""
        size = self._size
        return {r: [Kernels.of(t, size) for t in each] for r, each in self._spectra.items()}

    @property
    def _size(self) -> int:
        """Points of the templates' grid, extended by the lags at both ends."""
        return _log_grid(self.emulator)[2] + 2 * self.lags

    @staticmethod
    def _resolution(arm: Arm) -> float:
        """Return the resolution that stands for an arm, in three digits."""
        typical = float(np.median(arm.instrument.resolution_at(arm.wavelength)))
        return float(f"{typical:.3g}")

    def modes(self, pixels: Sequence[Pixels]) -> list[list[Start]]:
        """Return the modes of a star, the best first, each a list of first guesses.

        Empty where the pixels cannot be compared with templates.

        Parameters
        ----------
        pixels : sequence of Pixels
            Of the arms, in their order.
        """
        each = self._gain(pixels)                         # (n_arm, n_vsini, n_template, n_lag)
        if not each.any():
            return []
        for i, m in enumerate(self.mover):
            each[i][..., ~self._allowed(m)] = -np.inf
        first = [i for i, m in enumerate(self.mover) if m == self.mover[0]]
        # Arms with a velocity of their own are taken at their best one for each template.
        others = {m: each[[i for i, n in enumerate(self.mover) if n == m]].sum(0)
                  for m in dict.fromkeys(self.mover) if m != self.mover[0]}
        gain = each[first].sum(0) + sum(g.max(-1, keepdims=True) for g in others.values())
        starts = []
        for peak in self._peaks(gain.max(axis=(0, 1))):
            order = np.argsort(gain[:, :, peak], axis=None)[::-1][:CANDIDATES]
            starts.append([self._start(gain, others, int(k) // gain.shape[1],
                                       int(k) % gain.shape[1], peak) for k in order])
        return starts

    def _allowed(self, mover: int) -> NDArray[np.bool_]:
        """Return which lags (n_lag,) the limits of a velocity allow, at least the nearest one."""
        if mover < 0:
            return np.ones(2 * self.lags + 1, dtype=bool)
        velocity = SPEED_OF_LIGHT * np.tanh(np.arange(-self.lags, self.lags + 1) * self.step)
        low, high = self.limits[mover]
        beyond = np.maximum(low - velocity, velocity - high)
        return np.asarray(beyond <= max(0.0, beyond.min()))

    def _gain(self, pixels: Sequence[Pixels]) -> Array:
        total = np.zeros((len(self.arms), len(self.vsini), len(self.theta), 2 * self.lags + 1))
        for k, (arm, seen) in enumerate(zip(self.arms, pixels, strict=True)):
            if not (seen.ivar > 0).any():
                continue
            data, weight = _on_log_grid(self.emulator, arm.wavelength, seen,
                                        self.centre[k] - self.lags, self.centre[k] + self.lags)
            if not weight.any():  # good pixels, but each far from the next
                continue
            kernels = self._kernels[self._resolution(arm)]
            floor = Kernels.of(np.ones((1, self._size - 2 * self.lags)), self._size).gain(
                data, weight)
            for i, each in enumerate(kernels):
                total[k, i] = each.gain(data, weight) - floor
        return total

    def _peaks(self, gain: Array) -> list[int]:
        """Return the lags of the highest peaks, the best first, a line's width apart."""
        padded = np.pad(gain, 1, constant_values=-np.inf)
        tops = np.flatnonzero(np.isfinite(gain) & (gain >= padded[:-2]) & (gain >= padded[2:]))
        left: list[int] = []
        for lag in tops[np.argsort(-gain[tops], kind="stable")]:
            if all(abs(lag - other) > self.width for other in left):
                left.append(int(lag))
        return left[:MODES]

    def _start(
        self, gain: Array, others: Mapping[int, Array], v: int, template: int, lag: int
    ) -> Start:
        places = {self.mover[0]: lag - self.lags + _peak_offset(gain[v, template], lag)}
        for mover, curves in others.items():
            best = int(np.argmax(curves[v, template]))
            places[mover] = best - self.lags + _peak_offset(curves[v, template], best)
        theta = self.theta[template].copy()
        for i, name in enumerate(self.parameters.names):
            if name == "vsini":
                theta[i] = self.vsini[v]
            elif i in places:
                velocity = SPEED_OF_LIGHT * np.tanh(places[i] * self.step)
                theta[i] = np.clip(velocity, *self.limits[i])
        moved = np.array([theta[m] if m >= 0 else 0.0 for m in self.mover])
        return Start(theta, self.offset + moved, float(self.vsini[v]),
                     float(gain[v, template, lag]))


def _template_parameters(
    parameters: Parameters, low: Array, high: Array, count: int, seed: int
) -> Array:
    """Return free vectors (count, n_free) spread evenly over the domain, between low and high.

    Ratios to iron stay at zero, or as near as the domain allows: they change a spectrum
    far less than the rest.
    """
    moving = [i for i, n in enumerate(parameters.names)
              if stage_of(n) is None and not n.endswith("_fe")]
    # scipy's takes half a second to import.
    sobol = torch.quasirandom.SobolEngine(  # type: ignore[no-untyped-call]
        max(1, len(moving)), scramble=True, seed=seed)
    unit = sobol.draw_base2(int(np.ceil(np.log2(count))), dtype=torch.float64).numpy()
    points = np.tile(np.clip(0.0, low, high), (len(unit), 1))
    for column, i in enumerate(moving):
        points[:, i] = low[i] + unit[:, column] * (high[i] - low[i])
    for i, name in enumerate(parameters.names):
        if stage := stage_of(name):
            harmless = {"vsini": 5.0, "vmac": 3.0, "epsilon": LIMB_DARKENING,
                        "resolution": 10.0 * parameters.scale[i]}.get(stage, 0.0)
            points[:, i] = np.clip(harmless, low[i], high[i])
    return np.array([nearest(p, parameters.scale, parameters.G, parameters.h) for p in points])


def _log_grid(emulator: Emulator) -> tuple[float, float, int]:
    """Return start, step and number of points of the templates' grid in ln(wavelength)."""
    low, high = np.log(emulator.wavelength_range)
    return float(low), emulator.log_step, int((high - low) / emulator.log_step + 1e-3) + 1


def _sharp_templates(emulator: Emulator, parameters: Parameters, theta: Array) -> Tensor:
    """Return the templates' spectra (n_template, n_grid) on the emulator's log grid."""
    key = emulator.sha256, str(emulator.dtype), (theta @ parameters.A.T + parameters.b).tobytes()
    known = _templates.get(key)
    if known is not None:
        return known
    low, step, count = _log_grid(emulator)
    grid = np.exp(low + step * np.arange(count)).clip(*emulator.wavelength_range)
    labels = torch.as_tensor(theta @ parameters.A.T + parameters.b, device=emulator.device)
    with torch.inference_mode():
        sharp = emulator.flux(labels, torch.as_tensor(grid, device=emulator.device)).double()
    if emulator.sha256:  # which an emulator has that was loaded, and does not change
        for old in list(_templates)[:max(0, len(_templates) - KEPT + 1)]:
            _templates.pop(old, None)
        _templates[key] = sharp
    return sharp


def _broadened(sharp: Tensor, vsini: float, resolution: float, step: float) -> Array:
    """Return templates broadened by rotation and instrument, their continuum normalised."""
    with torch.inference_mode():
        rotated = rotate(sharp, torch.full((len(sharp),), vsini, device=sharp.device),
                         log_step=step).cpu().numpy()
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
    emulator: Emulator, wavelength: Array, seen: Pixels, first: int, last: int
) -> tuple[Array, Array]:
    """Return normalised data and weights on the templates' grid extended by first..last steps.

    Pixels finer than the grid are averaged with their weights, coarser ones interpolated:
    good enough for a first guess, and for nothing else.
    """
    low, step, count = _log_grid(emulator)
    continuum = _upper_continuum(wavelength, seen.flux, seen.ivar)
    y, w = seen.flux / continuum, seen.ivar * continuum**2
    place = (np.log(wavelength) - low) / step - first
    size = count + last - first
    edges = np.arange(size + 1) - 0.5
    weight, _ = np.histogram(place, edges, weights=w)
    total, _ = np.histogram(place, edges, weights=w * y)
    if (typical := float(np.median(np.diff(place)))) > 1.0:
        # Between good pixels, few of them missing.
        place, y, w = place[w > 0], y[w > 0], w[w > 0]
        right = np.clip(np.searchsorted(place, np.arange(size)), 1, len(place) - 1)
        usable = place[right] - place[right - 1] < (BRIDGED + 1.5) * typical
        inside = (np.arange(size) >= place[0]) & (np.arange(size) <= place[-1])
        weight = np.where(usable & inside, np.interp(np.arange(size), place, w) / typical, 0.0)
        total = weight * np.interp(np.arange(size), place, y)
    data = np.divide(total, weight, out=np.ones(size), where=weight > 0)
    return data, weight


@dataclass(frozen=True, eq=False)
class Kernels:
    """Templates as a correlation needs them.

    Attributes
    ----------
    size, lags, length : int
        Of the data, of the result, and of the transforms.
    once, square : (n_template, n_frequency) complex128
        Conjugate transforms of the templates and of their squares.
    """

    size: int
    lags: int
    length: int
    once: NDArray[np.complex128]
    square: NDArray[np.complex128]

    @classmethod
    def of(cls, templates: Array, size: int) -> Kernels:
        """Return those of templates (n_template, n_grid) for data (size,)."""
        length = fft.next_fast_len(size, real=True)
        once, square = (np.conj(fft.rfft(t, length, axis=-1)) for t in (templates, templates**2))
        return cls(size, size - templates.shape[1] + 1, length, once, square)

    def gain(self, data: Array, weight: Array) -> Array:
        """Return by how much each best-scaled template lowers chi-square, (n_template, n_lag)."""
        w, wy = fft.rfft([weight, weight * data], self.length, axis=-1)
        wtt, wyt = (fft.irfft(x, self.length, axis=-1)[:, :self.lags]
                    for x in (self.square * w, self.once * wy))
        return np.asarray(wyt**2 / np.maximum(wtt, 1e-9 * weight.sum()))


def _peak_offset(gain: Array, best: int) -> float:
    """Return the vertex, in lags, of the parabola through a peak and its neighbours."""
    if not 0 < best < len(gain) - 1:
        return 0.0
    left, top, right = gain[best - 1:best + 2]
    if not np.isfinite(left + right):  # beside a velocity that is not allowed
        return 0.0
    curvature = left - 2.0 * top + right
    return float(0.5 * (left - right) / curvature) if curvature < 0 else 0.0
