"""The posterior of one star: its logarithm, its gradient, and the Gaussian that is near it.

The likelihood is Gaussian in the noise as it is at the fit, with the continuum marginalised
under a flat prior (`continuum`).  The prior is uniform inside the polytope of the emulator's
domain, the limits of the stages and 30 km/s on either side of the velocity that was searched for,
times the Gaussian ones that were given.

Gradient samplers cannot live with an edge: for them the density goes on beyond it and falls
off steeply, and samples from there are left out afterwards.  Inside, both are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag
from torch import Tensor

from stellarfit.continuum import project
from stellarfit.polytope import nearest
from stellarfit.posterior.jitter import NAME, Jitter, noise_of
from stellarfit.problem import Problem
from stellarfit.result import FitResult

Array = NDArray[np.float64]
#: points that are evaluated together
AT_ONCE = 16
#: how far beyond an edge the smooth density reaches, in typical sizes
SMOOTH = 0.1
#: no error is larger than this many typical sizes: the domain is some tens of them wide
LARGEST = 10.0


def log_likelihood(
    problem: Problem, theta: Array, stars: NDArray[np.int64],
    jitters: Mapping[int, Jitter] | None = None,
) -> Array:
    """Return ln(likelihood) (n,) of theta (n, n_free), each of its star (n,), without gradient.

    -inf where the emulator has no spectrum.  With `jitters`, of each star, theta ends with it.
    """
    device, count = problem.data.flux.device, len(problem.model.parameters)

    @torch.no_grad()
    def one(part: slice) -> Tensor:
        points = torch.as_tensor(theta[part], device=device)
        model = problem.model.evaluate(points[:, :count])
        known = torch.isfinite(model).all(-1)
        value = _of_spectra(problem, torch.where(known[:, None], model, 1.0), stars[part],
                            points[:, count:], jitters)
        return torch.where(known, value, -torch.inf)

    values = _in_threads(one, len(theta), torch.get_num_threads() if device.type == "cpu" else 1)
    return np.asarray(torch.cat(values).cpu().numpy())


def _in_threads(one: Callable[[slice], Tensor], count: int, threads: int) -> list[Tensor]:
    """Return what some points have, a few at a time; each of torch's threads takes its share.

    The operations on a few spectra are too small to be shared among threads themselves.
    """
    size = min(AT_ONCE, max(1, -(-count // threads)))
    parts = [slice(i, i + size) for i in range(0, count, size)]
    if threads == 1 or len(parts) == 1:
        return [one(part) for part in parts]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, parts))
    finally:
        torch.set_num_threads(threads)


def _of_spectra(
    problem: Problem, model: Tensor, stars: NDArray[np.int64], beside: Tensor,
    jitters: Mapping[int, Jitter] | None,
) -> Tensor:
    """Return ln(likelihood) (n,) of normalised spectra, the continuum integrated out."""
    data, index = problem.data, torch.as_tensor(stars, device=model.device)
    if not jitters:
        solved = data.project(model, index)
        return -0.5 * (solved.chi2 + solved.log_determinant)
    noise, log_det = noise_of([jitters[int(star)].noise(value[0])
                               for star, value in zip(stars, beside, strict=True)])
    solved = project(model, data.flux[index], noise, data.terms, data.level)
    return -0.5 * (solved.chi2 + solved.log_determinant + log_det)


class Density:
    """ln(posterior), up to a constant, of a star that has been fitted.

    Parameters
    ----------
    problem : Problem
        In the noise at its fit.
    best : FitResult
        The star's fit.
    star : int
        Which of the problem's.
    jitter : Jitter, optional
        The last parameter, where it is one.
    likelihood : callable, optional
        Gives ln(likelihood) (n,) of theta (n, n_free), in place of the problem's own.
    """

    def __init__(
        self, problem: Problem, best: FitResult, star: int = 0, jitter: Jitter | None = None,
        likelihood: Callable[[Array], Array] | None = None,
    ) -> None:
        self.problem, self.best, self.star, self.jitter = problem, best, star, jitter
        self.names, self.values = best.names, best.values
        self.scale = problem.model.parameters.scale
        self.G, self.h = problem.data.G, problem.data.h[star]
        self._count = len(self.scale)
        if jitter is not None:
            self.names = (*self.names, NAME)
            self.values = np.append(self.values, jitter.start)
            self.scale = np.append(self.scale, jitter.sigma)
            self.G = block_diag(self.G, [[1.0], [-1.0]])
            self.h = np.append(self.h, [jitter.high, -jitter.low])
        self._jitters = {} if jitter is None else {star: jitter}
        self._likelihood = likelihood or (lambda theta: log_likelihood(
            problem, theta, self._same(len(theta)), self._jitters))

    def __len__(self) -> int:
        """Return the number of free parameters."""
        return len(self.scale)

    def inside(self, theta: Array) -> NDArray[np.bool_]:
        """Return which of theta (n, n_free) the prior allows, (n,)."""
        return np.asarray((theta @ self.G.T <= self.h).all(axis=-1))

    def __call__(self, theta: Array) -> Array:
        """Return ln(posterior) (n,) of theta (n, n_free); -inf outside the prior."""
        theta = np.asarray(theta, dtype=float)
        inside = self.inside(theta)
        result = np.full(len(theta), -np.inf)
        if inside.any():
            allowed = theta[inside]
            residual = self.problem.data.prior_residual(
                allowed[:, :self._count], self._same(len(allowed)))
            value = self._likelihood(allowed) - 0.5 * (residual**2).sum(-1)
            result[inside] = np.where(np.isfinite(value), value, -np.inf)
        return result

    def smooth(self, theta: Tensor) -> Tensor:
        """Return ln(density) of theta (n_free,), differentiable, and defined beyond the prior."""
        data = self.problem.data
        labels, beside = theta[:self._count], theta[None, self._count:]
        value = _of_spectra(self.problem, self.problem.model(labels[None]), self._same(1), beside,
                            self._jitters)[0]
        rows, values = (self._tensor(x[self.star]) for x in (data.P, data.p))
        value = value - 0.5 * ((rows @ labels - values) ** 2).sum()
        beyond = (self._tensor(self.G) @ theta - self._tensor(self.h)).clamp(min=0.0)
        return torch.as_tensor(value - 0.5 * ((beyond / self._tensor(self._edge)) ** 2).sum())

    def predicted(self, theta: Array) -> Array:
        """Return spectra (n, n_pix) of theta (n, n_free), each with its best continuum."""
        with torch.no_grad():
            parts = []
            for part in np.split(theta, range(AT_ONCE, len(theta), AT_ONCE)):
                model = self.problem.model.evaluate(self._tensor(part[:, :self._count]))
                same = torch.as_tensor(self._same(len(model)), device=model.device)
                parts.append(model * self.problem.data.project(model, same).continuum)
            return np.asarray(torch.cat(parts).cpu().numpy())

    def _same(self, count: int) -> NDArray[np.int64]:
        return np.full(count, self.star)

    @cached_property
    def _edge(self) -> Array:
        return SMOOTH * (np.abs(self.G) @ self.scale) + 1e-300

    def _tensor(self, x: Array) -> Tensor:
        return torch.as_tensor(x, dtype=torch.float64, device=self.problem.data.flux.device)

    @cached_property
    def covariance(self) -> Array:
        """Of the Gaussian around the fit (n_free, n_free): finite, no wider than the domain."""
        given = self.best.covariance
        if self.jitter is not None:
            given = block_diag(given, [[self.jitter.sigma**2]])
        loose = ~np.isfinite(np.diag(given))
        spread = np.where(np.isfinite(given), given, 0.0)
        spread[loose, :] = spread[:, loose] = 0.0  # what is left of them is no covariance
        spread[loose, loose] = self.scale[loose] ** 2
        shrink = np.minimum(1.0, LARGEST * self.scale / np.sqrt(np.diag(spread)))
        return np.asarray(spread * np.outer(shrink, shrink))

    @cached_property
    def root(self) -> Array:
        """L of the covariance, L L^T (n_free, n_free)."""
        values, vectors = np.linalg.eigh(self.covariance / np.outer(self.scale, self.scale))
        return np.asarray(self.scale[:, None] * vectors * np.sqrt(values.clip(min=1e-12)))

    def scattered(self, count: int, rng: np.random.Generator) -> Array:
        """Return points (count, n_free) of the Gaussian around the fit, inside the prior."""
        several = max(count, 2 * len(self))  # whose mean is well inside
        drawn = self.values + rng.standard_normal((several, len(self))) @ self.root.T
        points = np.array([nearest(d, self.scale, self.G, self.h) for d in drawn])
        # Points on a face would span no volume there; towards their mean it is always inside.
        inner = points.mean(axis=0)
        outside = np.linalg.norm((points - drawn) / self.scale, axis=1) > 1e-12
        pull = rng.uniform(0.05, 0.95, size=(several, 1))
        points[outside] = (inner + pull * (points - inner))[outside]
        return points[:count]
