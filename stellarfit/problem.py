"""A fit's problem: stars on common pixels, the model that explains them, and where to start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stellarfit import optimize
from stellarfit.calibration import Calibration
from stellarfit.forward import ForwardModel
from stellarfit.noise import Noise
from stellarfit.observation import Observation, concatenated
from stellarfit.parameters import Parameters
from stellarfit.priors import Prior, Uniform
from stellarfit.search import Start
from stellarfit.weighting import EmulatorNoise, Weighting, emulator_noise, judge

Array = NDArray[np.float64]
#: a star's emulator errors are those of where it was before, less than this in typical sizes away
ERRORS_REACH = 1.0


@dataclass(frozen=True, eq=False)
class Star:
    """One star of a problem.

    Attributes
    ----------
    observation : Observation
    modes : list of list of Start
        First guesses, the best mode first, in each the best template first.
    start : Start
        The one whose velocity the problem is about.
    """

    observation: Observation
    modes: list[list[Start]]
    start: Start

    @property
    def flux(self) -> Array:
        """Of all arms, (n_pix,)."""
        return np.asarray(concatenated(self.observation.spectra, lambda s: s.flux))

    @property
    def ivar(self) -> Array:
        """Of all arms, (n_pix,); 0 at pixels to ignore."""
        return np.asarray(concatenated(
            self.observation.spectra, lambda s: np.where(usable(s), s.ivar, 0.0)))


@dataclass(frozen=True, eq=False)
class Problem:
    """All that a fit and a sampler need to know.

    Attributes
    ----------
    stars : tuple of Star
        With the same arms and pixels.
    model : ForwardModel
    data : optimize.Data
        One row per star; weights are 0 where a pixel is not used.
    priors : mapping of str to Prior
    weighting : Weighting
    calibration : Calibration, optional
    provenance : dict
        What is common to the stars.
    extra : dict of str to array
        What the weighting has found, (n_star,) each: ``jitter``, ``outliers`` and ``excess``
        (`weighting.judge`), and ``emulator_error``, the median over pixels.
    """

    stars: tuple[Star, ...]
    model: ForwardModel
    data: optimize.Data
    priors: Mapping[str, Prior]
    weighting: Weighting
    calibration: Calibration | None
    provenance: dict[str, Any]
    extra: dict[str, Array] = field(default_factory=dict)
    #: where each star's emulator errors were last taken, and they
    errors_at: dict[int, tuple[Array, EmulatorNoise | None]] = field(default_factory=dict)
    #: inverse variances (n_pix,) of each star's residuals, where emulator errors make the noise
    #: that labels are weighed with more than that
    expected: dict[int, Array] = field(default_factory=dict)

    @property
    def used(self) -> NDArray[np.bool_]:
        """Pixels that enter, (n_star, n_pix)."""
        return np.asarray(self.data.used.cpu().numpy())

    def at(
        self, theta: Array, stars: NDArray[np.int64] | None = None,
        ending: NDArray[np.bool_] | None = None,
    ) -> Problem:
        """Return the problem with priors and noise of some stars as they are at theta.

        A colour is linearised there; the emulator's and the calibration's errors are those
        of such stars.

        Parameters
        ----------
        theta : (n_star, n_free)
            Of all stars.
        stars : array of int, optional
            All by default.
        ending : (n_star,) bool, optional
            Which of these are to have the emulator's errors, all by default.  On the way the
            jitter, if there is one, stands for them.
        """
        stars = np.arange(len(theta)) if stars is None else stars
        ending = np.ones(len(stars), dtype=bool) if ending is None else ending
        P, p = self.data.P.copy(), self.data.p.copy()
        if any(not isinstance(prior, Uniform) for prior in self.priors.values()):
            rows = [prior_rows(self.model.parameters, self.priors, t) for t in theta]
            P, p = (np.array(x) for x in zip(*rows, strict=True))
        noise, found = self._noise(theta, stars, ending | (not self.weighting.jitter))
        index = torch.as_tensor(stars, device=self.data.flux.device)
        extra = {k: self.extra.get(k, np.zeros(len(theta))).copy() for k in found}
        for name, values in found.items():
            extra[name][stars] = values
        data = replace(self.data, P=P, p=p, noise=self.data.noise.with_rows(index, noise))
        return replace(self, data=data, extra={**self.extra, **extra})

    def given_chi2(self, theta: Array, pixels: NDArray[np.bool_]) -> Array:
        """Return chi-square (n_star,) at theta, of some pixels in the noise that was given."""
        model, solved = self.solve(theta)
        flux, ivar = self._given
        residual = flux - model * solved.continuum.cpu().numpy()
        return np.asarray((np.where(pixels, ivar, 0.0) * residual**2).sum(-1))

    def chi2_of(self, star: int, model: Array, weighted: float) -> float:
        """Return the chi-square of a star's residuals from a model (n_pix,), continuum included.

        That is `weighted`, the one that was minimised, but for emulator errors that hang together.
        """
        if star not in self.expected:
            return weighted
        return float((self.expected[star] * (self._given[0][star] - model) ** 2).sum())

    def solve(self, theta: Array, stars: NDArray[np.int64] | None = None) -> tuple[Array, Any]:
        """Return the normalised model (s, n_pix) at theta (s, n_free), and the projection.

        Of all stars, if they are not given.
        """
        stars = np.arange(len(theta)) if stars is None else stars
        with torch.no_grad():
            device = self.data.flux.device
            parts = [self.model.flux(torch.as_tensor(theta[p], device=device))
                     for p in optimize.pieces(len(theta), self.data.flux.shape[1])]
            model = torch.cat(parts).double()
            return model.cpu().numpy(), self.data.project(
                model, torch.as_tensor(stars, device=device))

    def _noise(
        self, theta: Array, stars: NDArray[np.int64], ending: NDArray[np.bool_]
    ) -> tuple[Noise, dict[str, Array]]:
        """Return the noise of some stars, and what has been found out about it, (s,) each."""
        model, solved = self.solve(theta[stars], stars)
        flux, ivar = (x[stars] for x in self._given)
        # A continuum of zero says nothing, and would divide.
        used, c = ivar > 0, solved.continuum.cpu().numpy()
        used &= c != 0
        c = np.where(used, c, 1.0)
        # Everything in units of the continuum.
        variance = np.divide(1.0, ivar * c**2, out=np.ones_like(ivar), where=used)
        if self.calibration is not None:
            variance += [self.calibration.seen_by(self.model, theta[i]) ** 2 for i in stars]
        expected, alone = variance.copy(), np.zeros_like(variance)
        errors = [self._errors(int(i), theta[i]) if at_end else None
                  for i, at_end in zip(stars, ending, strict=True)]
        for k, own in enumerate(errors):
            if own is not None:
                expected[k] += own.square.cpu().numpy()
                alone[k] = own.alone.cpu().numpy()
        jitter, factor, found = judge((flux - model * c) / c, expected, self.weighting, used)
        extra = jitter[:, None] ** 2
        weight = np.sqrt(factor / (variance + alone + extra)) / np.abs(c)
        noise = Noise(torch.as_tensor(np.where(used, weight, 0.0), device=self.data.flux.device),
                      self.weighting.correlation)
        if self.model.emulator.errors is None or not self.weighting.emulator_error:
            return noise, found
        ideal = np.where(used, factor / (expected + extra) / c**2, 0.0)
        self.expected.update(zip(stars.tolist(), ideal, strict=True))
        found["emulator_error"] = np.array([
            np.nan if own is None or not u.any()
            else np.sqrt(np.median(own.square.cpu().numpy()[u]))
            for own, u in zip(errors, used, strict=True)])
        none = noise.weight.new_zeros(noise.weight.shape[1], 0)
        return noise.with_modes([
            none if own is None else own.modes.T * solved.continuum[k].unsqueeze(-1)
            for k, own in enumerate(errors)]), found

    def emulator_share(self, solution: optimize.Solution) -> Array:
        """Return the emulator's part of the variance of a label, (n_star,), of the worst one.

        That is 1 - s^2 / S^2, with S the error of a label and s what it would be with the other
        noise alone.
        """
        n_star = len(solution.theta)
        moved = np.flatnonzero((self.model.parameters.A != 0).any(axis=0))
        if not self.errors_at or not len(moved):
            return np.zeros(n_star)
        ivar = self._given[1]
        continuum = self.solve(solution.theta)[1].continuum.cpu().numpy()
        jitter = self.extra.get("jitter", np.zeros(n_star))[:, None] * continuum
        variance = np.divide(1.0, ivar, out=np.full_like(ivar, np.inf), where=ivar > 0) + jitter**2
        other = Noise(torch.as_tensor(variance**-0.5, device=self.data.flux.device),
                      self.weighting.correlation)
        stars = np.arange(n_star)
        bare = optimize.normal_equations(
            self.model, replace(self.data, noise=other), solution.theta, stars,
            np.full(n_star, optimize.AT_THE_END))[2]
        shares = []
        for information in zip(bare, solution.information, strict=True):
            s, total = (np.diag(optimize.covariance(i, self.model.parameters.scale)[0])[moved]
                        for i in information)
            known = np.isfinite(total) & np.isfinite(s) & (total > 0)
            shares.append(max(1.0 - s[known] / total[known], default=0.0))
        return np.array(shares)

    @cached_property
    def _given(self) -> tuple[Array, Array]:
        """Flux and ivar (n_star, n_pix) as given, ivar 0 where a pixel does not count."""
        flux, ivar = (np.array([getattr(s, k) for s in self.stars]) for k in ("flux", "ivar"))
        return flux, np.where(self.used, ivar, 0.0)

    def _errors(self, star: int, theta: Array) -> EmulatorNoise | None:
        """Return what the emulator adds to the noise of a star, or of one close by."""
        if not self.weighting.emulator_error:
            return None
        known = self.errors_at.get(star)
        scale = self.model.parameters.scale
        if known is None or np.abs((theta - known[0]) / scale).max() > ERRORS_REACH:
            known = self.errors_at[star] = theta.copy(), emulator_noise(self.model, theta)
        return known[1]


def usable(spectrum: Any) -> NDArray[np.bool_]:
    """Pixels that may count: good, and known to the resolution matrix if there is one."""
    good = spectrum.good
    return np.asarray(good & ~spectrum.matrix.empty if spectrum.matrix is not None else good)


def prior_rows(
    parameters: Parameters, priors: Mapping[str, Prior], theta: Array
) -> tuple[Array, Array]:
    """Return rows (n_prior, n_free) and values (n_prior,) of the Gaussian priors, in sigma."""
    rows, values = [], []
    for name, prior in priors.items():
        if isinstance(prior, Uniform):
            continue
        near: dict[str, float] = {n: parameters.value_of(n, theta) for n in ("logg", "fe_h")
                                  if n in parameters.labels.names}
        coefficients, value, sigma = prior.linearised(name, near)
        row = np.zeros(len(parameters))
        for label, coefficient in coefficients.items():
            if coefficient and (label == name or label in parameters.labels.names):
                part, offset = parameters.row_of(label)
                row += coefficient * part
                value -= coefficient * offset
        rows.append(row / sigma)
        values.append(value / sigma)
    return np.array(rows).reshape(-1, len(parameters)), np.array(values)
