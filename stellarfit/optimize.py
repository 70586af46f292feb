"""Optimisers: batched Levenberg-Marquardt, and Adam for comparison.

Both minimise, for each star on its own,

    chi2(theta) = min_a |W [y - m(theta) (c_0 + sum_k a_k T_k)]|^2 + |P theta - p|^2

with W the square root of the inverse covariance of the noise, the continuum coefficients a
solved exactly at every trial (variable projection, in the approximation of Kaufman 1975,
BIT 15, 49), Gaussian priors as rows P in units of their sigma, and theta inside a polytope: the
emulator's domain and the limits of the star.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stellarfit.continuum import Projection, project
from stellarfit.forward import ForwardModel
from stellarfit.noise import Noise
from stellarfit.polytope import minimise_quadratic, nearest

Array = NDArray[np.float64]
#: pixels, of several stars, whose Jacobian is in memory together: about 1 GB with many parameters
PIXELS_AT_ONCE = 160_000
#: and at most as many stars
STARS_AT_ONCE = 64
#: how far (in typical sizes) the labels may move before the emulator's derivatives, nearly all
#: of the cost, are taken anew: on the way, and where a star is said to have converged
ON_THE_WAY, AT_THE_END = 1.0, 0.3
#: when a step promises less of chi-square than this, the noise of a star's end is asked for
NEAR_THE_END = 0.1
#: times that gradient descent weighs its stars
WEIGHED = 8
#: weighs stars anew: from theta of all, the numbers of some, and which of these seem to be at
#: their minimum, the data with their noise
Weigh = Callable[[Array, NDArray[np.int64], NDArray[np.bool_]], "Data"]


@dataclass(frozen=True, eq=False)
class Data:
    """Observed stars on common pixels, and what is known of them beforehand.

    Attributes
    ----------
    flux : (n_spec, n_pix) float64 tensor
    noise : Noise
    terms : (n_pix, n_term) float64 tensor
        Continuum basis.
    level : (n_pix,) float64 tensor
        The part of the continuum that is not fitted.
    G, h : (n_limit, n_free), (n_spec, n_limit)
        ``G theta <= h`` for each star.
    P : (n_spec, n_prior, n_free)
        Rows of Gaussian priors, in units of their sigma.
    p : (n_spec, n_prior)
        What they say, in the same units.
    """

    flux: Tensor
    noise: Noise
    terms: Tensor
    level: Tensor
    G: Array
    h: Array
    P: Array
    p: Array

    @property
    def used(self) -> Tensor:
        """Pixels that count, (n_spec, n_pix) bool."""
        return self.noise.used

    def project(self, model: Tensor, stars: Tensor) -> Projection:
        """Solve for the continuum of some stars."""
        return project(model, self.flux[stars], self.noise[stars], self.terms, self.level)

    def prior_residual(self, theta: Array, stars: NDArray[np.int64]) -> Array:
        """Return (P theta - p) of some stars (s, n_prior), in sigma."""
        return np.asarray(np.einsum("spn,sn->sp", self.P[stars], theta) - self.p[stars])

    def nearest(self, theta: Array, scale: Array, star: int) -> Array:
        """Return the point within a star's limits that is nearest to theta (n_free,)."""
        return nearest(theta, scale, self.G, self.h[star])


@dataclass(frozen=True, eq=False)
class Solution:
    """Where an optimiser ended, per star.

    Attributes
    ----------
    theta : (n_spec, n_free) float64
    chi2 : (n_spec,) float64
    converged : (n_spec,) bool
    iterations : (n_spec,) int
    information : (n_spec, n_free, n_free) float64
        J^T J with the continuum projected out: the inverse of the marginal covariance.
    slope : (n_spec, n_term, n_free) float64
        How the continuum's coefficients follow the parameters.
    """

    theta: Array
    chi2: Array
    converged: NDArray[np.bool_]
    iterations: NDArray[np.int64]
    information: Array
    slope: Array


def pieces(n_spec: int, n_pix: int) -> list[slice]:
    """Return slices of `n_spec` stars that fit into memory together."""
    size = max(1, min(STARS_AT_ONCE, PIXELS_AT_ONCE // max(1, n_pix)))
    return [slice(i, i + size) for i in range(0, n_spec, size)]


def normal_equations(
    model: ForwardModel, data: Data, theta: Array, stars: NDArray[np.int64],
    reach: Array | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Return chi2 (s,), gradient (s, n), information (s, n, n) and slope (s, k, n) at theta.

    With derivatives of the emulator from up to `reach` (s,) away (`ForwardModel.jacobian`).
    """
    reach = np.zeros(len(stars)) if reach is None else reach
    parts = [_normal_equations(model, data, theta[p], stars[p], reach[p])
             for p in pieces(len(stars), data.flux.shape[1])]
    chi2, gradient, information, slope = (np.concatenate(p) for p in zip(*parts, strict=True))
    residual, rows = data.prior_residual(theta, stars), data.P[stars]
    return (chi2 + (residual**2).sum(-1),
            gradient - np.einsum("spn,sp->sn", rows, residual),
            information + np.einsum("spn,spm->snm", rows, rows), slope)


def _normal_equations(
    model: ForwardModel, data: Data, theta: Array, stars: NDArray[np.int64], reach: Array
) -> tuple[Array, Array, Array, Array]:
    """Do the same for the pixels alone."""
    index = _index(model, stars)
    flux, jacobian = model.jacobian(_tensor(model, theta), stars=stars.tolist(),
                                     reach=reach.tolist())
    solved = data.project(flux, index)
    columns = data.noise[index].whiten(solved.continuum.unsqueeze(-1) * jacobian.double())
    slope = -torch.linalg.pinv(solved.triangle) @ (solved.frame.transpose(-1, -2) @ columns)
    columns = solved.remove(columns)
    gradient = (columns.transpose(-1, -2) @ solved.residual.unsqueeze(-1)).squeeze(-1)
    found = solved.chi2, gradient, columns.transpose(-1, -2) @ columns, slope
    return tuple(x.cpu().numpy() for x in found)  # type: ignore[return-value]


def chi_square(model: ForwardModel, data: Data, theta: Array, stars: NDArray[np.int64]) -> Array:
    """Return chi2 (s,) of theta (s, n), priors included."""
    values = []
    with torch.no_grad():
        for part in pieces(len(stars), data.flux.shape[1]):
            flux = model.flux(_tensor(model, theta[part]))
            values.append(data.project(flux, _index(model, stars[part])).chi2.cpu().numpy())
    return np.asarray(np.concatenate(values) + (data.prior_residual(theta, stars) ** 2).sum(-1))


def levenberg_marquardt(
    model: ForwardModel, data: Data, start: Array, *, max_iterations: int = 60,
    tolerance: float = 1e-3, weigh: Weigh | None = None,
) -> Solution:
    """Minimise chi-square for all stars together.

    Parameters
    ----------
    start : (n_spec, n_free)
        Moved within the limits if outside.
    max_iterations : int
        Of Jacobians.
    tolerance : float
        A star has converged when the next step promises to lower its chi-square by less
        than this times max(1, chi2 / n_pix): to move by some hundredths of sigma.
    weigh : callable, optional
        Noise and priors where they depend on the star.  They are taken anew now and then on its
        way and always at its end: it has converged when nothing of that moves it any more.
    """
    scale = model.parameters.scale
    theta = np.array([data.nearest(s, scale, i) for i, s in enumerate(np.atleast_2d(start))])
    n_star, n_free = theta.shape
    chi2, information = np.full(n_star, np.inf), np.zeros((n_star, n_free, n_free))
    gradient = np.zeros((n_star, n_free))
    slope = np.zeros((n_star, data.terms.shape[1], n_free))
    damping = np.full(n_star, 1e-2)
    converged, iterations = np.zeros(n_star, dtype=bool), np.zeros(n_star, dtype=int)
    moved = np.ones(n_star, dtype=bool)       # since it was weighed
    ending = np.full(n_star, weigh is None)   # at its minimum, as far as was known
    # Where derivatives are cheap, they are always those of the very place.
    on_the_way, at_the_end = (0.0, 0.0) if model.at_rest.cheap else (ON_THE_WAY, AT_THE_END)
    fresh = np.ones(n_star, dtype=bool)       # whose Jacobian is to be computed
    reach = np.full(n_star, at_the_end)       # where a fit goes on, those of its end are known
    active = np.arange(n_star)
    n_good = data.used.sum(-1).cpu().numpy()

    for _ in range(3 * max_iterations):
        stale = active[fresh[active] & (iterations[active] < max_iterations)]
        active = active[~fresh[active] | (iterations[active] < max_iterations)]
        if len(active) == 0:
            break
        if len(stale):
            # On the way: at its start, after the first step, the second, the fourth, the eighth.
            taken = iterations[stale]
            due = stale[moved[stale] & (ending[stale] | (taken & (taken - 1) == 0))]
            if weigh is not None and len(due):
                data = weigh(theta, due, ending[due])
            moved[due] = False
            chi2[stale], gradient[stale], information[stale], slope[stale] = normal_equations(
                model, data, theta[stale], stale, reach[stale])
            iterations[stale] += 1
            fresh[stale] = False
            # A star that blew up numerically is left where it is, not converged.
            active = active[np.isfinite(information[active]).all(axis=(1, 2))]
        steps, promise = _steps(theta, gradient, information, damping, active, data, scale)
        close = np.where(ending[active], tolerance, NEAR_THE_END)
        small = promise < close * np.maximum(1.0, chi2[active] / np.maximum(1, n_good[active]))
        # A step made small by damping alone proves nothing.
        done = small & (damping[active] <= 1.0)
        own = ending[active] & ~moved[active] & (reach[active] <= AT_THE_END)
        converged[active[done & own]] = True
        doubtful = active[done & ~own]
        moving, steps, promise = active[~done], steps[~done], promise[~done]
        active = active[~(done & own)]
        if len(moving):
            trial = theta[moving] + steps
            lower = chi_square(model, data, trial, moving)
            better = lower < chi2[moving]
            gained = np.where(better, (chi2[moving] - lower) / np.maximum(promise, 1e-300), 0.0)
            theta[moving[better]] = trial[better]
            chi2[moving[better]] = lower[better]
            moved[moving[better]] = fresh[moving[better]] = True
            reach[moving[better]] = on_the_way
            damping[moving] *= np.where(gained > 0.7, 0.2, np.where(gained > 0.2, 1.0, 5.0))
            damping[moving] = damping[moving].clip(1e-7, None)
            # A step that failed may be the fault of derivatives of elsewhere, not of its length.
            failed = moving[~better & (reach[moving] > 0)]
            fresh[failed], reach[failed], damping[failed] = True, 0.0, damping[failed] / 5.0
        # No step of any length helps: the minimum to rounding.
        stuck = active[damping[active] > 1e8]
        converged[stuck[ending[stuck]]] = True
        damping[stuck] = 1e-2
        active = active[~converged[active]]
        # Neither derivatives of elsewhere are believed at the end, nor noise.
        doubtful = np.concatenate([doubtful, stuck[~ending[stuck]]])
        moved[doubtful] |= ~ending[doubtful]
        fresh[doubtful] = ending[doubtful] = True
        reach[doubtful] = at_the_end
    # Who ran out of iterations has moved since it was weighed and its derivatives were taken.
    left = np.flatnonzero(~converged)
    if len(left):
        if weigh is not None:
            data = weigh(theta, left, np.ones(len(left), dtype=bool))
        chi2[left], _, information[left], slope[left] = normal_equations(
            model, data, theta[left], left, np.full(len(left), AT_THE_END))
    return Solution(theta, chi2, converged, iterations, information, slope)


def _steps(
    theta: Array, gradient: Array, information: Array, damping: Array, stars: NDArray[np.int64],
    data: Data, scale: Array,
) -> tuple[Array, Array]:
    """Return each star's damped step inside the limits, and the fall of chi-square it promises."""
    G = data.G
    near = 1e-2 * (np.abs(G) @ scale)
    steps, promise = np.zeros((len(stars), theta.shape[1])), np.zeros(len(stars))
    for k, star in enumerate(stars):
        H, g = information[star], gradient[star]
        # A parameter without information must not make the matrix singular: damp every
        # one at least as if a typical step changed chi-square by 1e-4.
        H = H + np.diag(1e-4 / scale**2)
        damped = H + damping[star] * np.diag(np.diag(H))
        # A face is approached before it is touched: on those where a derivative vanishes
        # (vsini = 0, vmic = 0), one step too long would never be taken back.
        room = np.maximum(data.h[star] - G @ theta[star], 0.0)
        steps[k] = minimise_quadratic(damped, g, G, np.where(room > near, 0.9 * room, room))
        promise[k] = 2.0 * g @ steps[k] - steps[k] @ information[star] @ steps[k]
    return steps, promise


def adam(
    model: ForwardModel, data: Data, start: Array, *, steps: int = 400,
    learning_rate: float = 0.1, weigh: Weigh | None = None,
) -> Solution:
    """Minimise chi-square by plain gradient descent (Kingma & Ba 2015, arXiv:1412.6980).

    Slower than Levenberg-Marquardt; it is here because its gradients are those of any
    other torch loss.  Steps are counted in typical sizes of the parameters, with a cosine
    schedule, and projected back into the domain.  Stars are weighed anew `WEIGHED` times.
    """
    scale = model.parameters.scale
    theta = np.array([data.nearest(s, scale, i) for i, s in enumerate(np.atleast_2d(start))])
    stars = np.arange(len(theta))
    everyone = _index(model, stars)
    unit = torch.as_tensor(scale, device=model.emulator.device)
    scaled = (_tensor(model, theta) / unit).requires_grad_()
    optimiser = torch.optim.Adam([scaled], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best, best_chi2 = theta.copy(), np.full(len(theta), np.inf)
    for step in range(steps):
        at = scaled * unit
        if weigh is not None and step % max(1, steps // WEIGHED) == 0:
            data = weigh(at.detach().cpu().numpy(), stars, np.ones(len(stars), dtype=bool))
            best_chi2[:] = np.inf  # of other weights
        rows, values = (torch.as_tensor(x, device=unit.device) for x in (data.P, data.p))
        prior = ((rows @ at.unsqueeze(-1)).squeeze(-1) - values) ** 2
        chi2 = data.project(model(at), everyone).chi2 + prior.sum(-1)
        now = at.detach().cpu().numpy()
        better = (value := chi2.detach().cpu().numpy()) < best_chi2
        best[better], best_chi2[better] = now[better], value[better]
        optimiser.zero_grad()
        # The logarithm makes the step independent of the number of pixels.
        torch.autograd.backward(torch.log(chi2 + 1e-12).sum())
        optimiser.step()
        schedule.step()
        moved = (scaled.detach() * unit).cpu().numpy()
        inside = np.array([data.nearest(x, scale, i) for i, x in enumerate(moved)])
        scaled.data.copy_(_tensor(model, inside) / unit)
    chi2_now, gradient, information, slope = normal_equations(model, data, best, stars)
    _, promise = _steps(best, gradient, information, np.zeros(len(best)), stars, data, scale)
    # Converged if a Gauss-Newton step would gain less than one sigma.
    converged = promise < np.maximum(1.0, chi2_now / max(1, data.flux.shape[1]))
    return Solution(best, chi2_now, converged, np.full(len(best), steps), information, slope)


def covariance(information: Array, scale: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return the covariance of (n, n) information, and which parameters it says nothing of.

    A direction in which a move of a hundred typical sizes changes chi-square by less than
    one is not constrained; its parameters get an infinite variance.
    """
    if not np.isfinite(information).all():
        return np.diag(np.full(len(scale), np.inf)), np.ones(len(scale), dtype=bool)
    scaled = information * np.outer(scale, scale)
    values, vectors = np.linalg.eigh(scaled)
    silent = values < 1e-4
    unconstrained = (vectors[:, silent] ** 2).sum(axis=1) > 0.01
    inverse = np.where(silent, 0.0, 1.0 / np.where(silent, 1.0, values))
    result = (vectors * inverse) @ vectors.T * np.outer(scale, scale)
    result[unconstrained, unconstrained] = np.inf
    return result, unconstrained


def _tensor(model: ForwardModel, theta: Array) -> Tensor:
    return torch.as_tensor(theta, dtype=torch.float64, device=model.emulator.device)


def _index(model: ForwardModel, stars: NDArray[np.int64]) -> Tensor:
    return torch.as_tensor(stars, device=model.emulator.device)
