"""Draws from the Gaussian around a fit, with tails: proposals for samplers.

A posterior of stellar labels is nearly the Gaussian that the fit's curvature says, so what is
drawn there without regard of the present place is accepted more often than not, and neighbouring
samples are nearly independent.  Student's t keeps the ratio of posterior and proposal bounded
where the posterior has the longer tails.
"""

from __future__ import annotations

import emcee
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import gammaln

Array = NDArray[np.float64]
#: degrees of freedom; the more dimensions, the fewer draws of a heavy-tailed t fall into the middle
FREEDOM = 30


class Around:
    """A multivariate Student t around a point.

    Parameters
    ----------
    centre : (n,) array
    covariance : (n, n) array
        Of the Gaussian that it is for infinite degrees of freedom.
    freedom : int
    """

    def __init__(self, centre: Array, covariance: Array, freedom: int = FREEDOM) -> None:
        self.centre, self.covariance = np.asarray(centre), np.asarray(covariance)
        self.freedom = freedom
        scale = np.sqrt(np.diag(covariance))
        correlation = covariance / np.outer(scale, scale)
        # A covariance that is singular to rounding has directions along which nothing moves.
        self.root = scale[:, None] * np.linalg.cholesky(
            correlation + 1e-10 * np.eye(len(scale)))

    def draw(self, count: int, random: np.random.RandomState) -> Array:
        """Return points (count, n): the same, whether drawn at once or in parts."""
        n = len(self.centre)
        normal = random.standard_normal((count, n + self.freedom))
        stretch = np.sqrt(self.freedom / (normal[:, n:] ** 2).sum(1, keepdims=True))
        return np.asarray(self.centre + stretch * (normal[:, :n] @ self.root.T))

    def log_density(self, points: Array) -> Array:
        """Return the logarithm of the density at points (count, n), normalised, (count,)."""
        n, v = len(self.centre), self.freedom
        white = solve_triangular(self.root, (points - self.centre).T, lower=True)
        norm = (gammaln(0.5 * (v + n)) - gammaln(0.5 * v) - 0.5 * n * np.log(v * np.pi)
                - np.log(np.diag(self.root)).sum())
        return np.asarray(norm - 0.5 * (v + n) * np.log1p((white**2).sum(0) / v))


class Independence(emcee.moves.MHMove):  # type: ignore[misc]
    """The Metropolis-Hastings move of emcee that proposes from around a point."""

    def __init__(self, around: Around) -> None:
        self.around = around
        super().__init__(self._propose)

    def _propose(self, coords: Array, random: np.random.RandomState) -> tuple[Array, Array]:
        new = self.around.draw(len(coords), random)
        return new, self.around.log_density(coords) - self.around.log_density(new)


def around_samples(samples: Array, weights: Array | None = None) -> Around | None:
    """Return a proposal like samples (n_sample, n); None where they do not span a volume."""
    centre = np.average(samples, axis=0, weights=weights)
    covariance = np.atleast_2d(np.cov(samples.T, aweights=weights))
    if not (np.diag(covariance) > 0).all():
        return None
    return Around(centre, covariance)
