"""Optimisers: batched Levenberg-Marquardt, and Adam for comparison.

Both minimise, for each star on its own,

    chi2(theta) = min_a sum_i w_i [y_i - m_i(theta) sum_k a_k T_k(x_i)]^2

with the continuum coefficients a solved exactly at every trial (variable projection, in
the approximation of Kaufman 1975, BIT 15, 49) and theta inside the polytope of the
emulator's domain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stellarfit.continuum import Projection, project
from stellarfit.forward import ForwardModel
from stellarfit.polytope import minimise_quadratic, nearest

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Data:
    """Observed stars on common pixels.

    Attributes
    ----------
    flux : (n_spec, n_pix) float64 tensor
    weight : (n_spec, n_pix) float64 tensor
        1 / sigma; 0 where a pixel is to be ignored.
    terms : (n_pix, n_term) float64 tensor
        Continuum basis.
    """

    flux: Tensor
    weight: Tensor
    terms: Tensor

    def project(self, model: Tensor, stars: Tensor) -> Projection:
        """Solve for the continuum of some stars."""
        return project(model, self.flux[stars], self.weight[stars], self.terms)


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
    """

    theta: Array
    chi2: Array
    converged: NDArray[np.bool_]
    iterations: NDArray[np.int64]
    information: Array


def normal_equations(model: ForwardModel, data: Data, theta: Tensor, stars: Tensor
                     ) -> tuple[Tensor, Tensor, Tensor]:
    """Return chi2 (s,), gradient (s, n) and information (s, n, n) at theta (s, n)."""
    flux, jacobian = model.jacobian(theta)
    solved = data.project(flux, stars)
    scale = (data.weight[stars] * solved.continuum).unsqueeze(-1)
    columns = solved.remove(scale * jacobian.double())
    gradient = (columns.transpose(-1, -2) @ solved.residual.unsqueeze(-1)).squeeze(-1)
    return solved.chi2, gradient, columns.transpose(-1, -2) @ columns


def levenberg_marquardt(
    model: ForwardModel, data: Data, start: Array, *, max_iterations: int = 40,
    tolerance: float = 1e-3,
) -> Solution:
    """Minimise chi-square for all stars together.

    Parameters
    ----------
    start : (n_spec, n_free)
        Moved into the domain if outside.
    max_iterations : int
        Of Jacobians.
    tolerance : float
        A star has converged when the next step promises to lower its chi-square by less
        than this times max(1, chi2 / n_pix), that is, to move by some hundredths of sigma.
    """
    limits = model.parameters.G, model.parameters.h
    scale = model.parameters.scale
    theta = np.array([nearest(s, scale, *limits) for s in np.atleast_2d(start)])
    n_star, n_free = theta.shape
    chi2, information = np.full(n_star, np.inf), np.zeros((n_star, n_free, n_free))
    gradient = np.zeros((n_star, n_free))
    damping = np.full(n_star, 1e-2)
    converged, iterations = np.zeros(n_star, dtype=bool), np.zeros(n_star, dtype=int)
    fresh = np.ones(n_star, dtype=bool)       # whose Jacobian is to be computed
    active = np.arange(n_star)
    n_good = (data.weight > 0).sum(-1).cpu().numpy()

    for _ in range(3 * max_iterations):
        stale = active[fresh[active] & (iterations[active] < max_iterations)]
        active = active[~fresh[active] | (iterations[active] < max_iterations)]
        if len(active) == 0:
            break
        if len(stale):
            at = normal_equations(model, data, _tensor(model, theta[stale]), _index(model, stale))
            chi2[stale], gradient[stale], information[stale] = (x.cpu().numpy() for x in at)
            iterations[stale] += 1
            fresh[stale] = False
            # A star that blew up numerically is left where it is, not converged.
            active = active[np.isfinite(information[active]).all(axis=(1, 2))]
        steps, promise = _steps(theta, gradient, information, damping, active, limits, scale)
        small = promise < tolerance * np.maximum(1.0, chi2[active] / np.maximum(1, n_good[active]))
        # A step made small by damping alone proves nothing.
        done = small & (damping[active] <= 1.0)
        converged[active[done]] = True
        active, steps, promise = active[~done], steps[~done], promise[~done]
        if len(active) == 0:
            break
        trial = theta[active] + steps
        with torch.no_grad():
            flux = model(_tensor(model, trial))
            lower = data.project(flux, _index(model, active)).chi2.cpu().numpy()
        better = lower < chi2[active]
        gained = np.where(better, (chi2[active] - lower) / np.maximum(promise, 1e-300), 0.0)
        theta[active[better]] = trial[better]
        chi2[active[better]] = lower[better]
        fresh[active[better]] = True
        damping[active] *= np.where(gained > 0.7, 0.2, np.where(gained > 0.2, 1.0, 5.0))
        damping[active] = damping[active].clip(1e-7, None)
        # No step of any length helps: the minimum to rounding.
        stuck = damping[active] > 1e8
        converged[active[stuck]] = True
        active = active[~stuck]
    return Solution(theta, chi2, converged, iterations, information)


def _steps(
    theta: Array, gradient: Array, information: Array, damping: Array, stars: NDArray[np.int64],
    limits: tuple[Array, Array], scale: Array,
) -> tuple[Array, Array]:
    """Return each star's damped step inside the limits, and the fall of chi-square it promises."""
    G, h = limits
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
        room = np.maximum(h - G @ theta[star], 0.0)
        steps[k] = minimise_quadratic(damped, g, G, np.where(room > near, 0.9 * room, room))
        promise[k] = 2.0 * g @ steps[k] - steps[k] @ information[star] @ steps[k]
    return steps, promise


def adam(
    model: ForwardModel, data: Data, start: Array, *, steps: int = 400,
    learning_rate: float = 0.1,
) -> Solution:
    """Minimise chi-square by plain gradient descent (Kingma & Ba 2015, arXiv:1412.6980).

    Slower than Levenberg-Marquardt; it is here because its gradients are those of any
    other torch loss.  Steps are counted in typical sizes of the parameters, with a cosine
    schedule, and projected back into the domain.
    """
    limits = model.parameters.G, model.parameters.h
    scale = model.parameters.scale
    theta = np.array([nearest(s, scale, *limits) for s in np.atleast_2d(start)])
    everyone = _index(model, np.arange(len(theta)))
    unit = torch.as_tensor(scale, device=model.emulator.device)
    scaled = (_tensor(model, theta) / unit).requires_grad_()
    optimiser = torch.optim.Adam([scaled], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best, best_chi2 = theta.copy(), np.full(len(theta), np.inf)
    for _ in range(steps):
        chi2 = data.project(model(scaled * unit), everyone).chi2
        now = (scaled.detach() * unit).cpu().numpy()
        better = (value := chi2.detach().cpu().numpy()) < best_chi2
        best[better], best_chi2[better] = now[better], value[better]
        optimiser.zero_grad()
        # The logarithm makes the step independent of the number of pixels.
        torch.autograd.backward(torch.log(chi2 + 1e-12).sum())
        optimiser.step()
        schedule.step()
        inside = [nearest(x, scale, *limits) for x in (scaled.detach() * unit).cpu().numpy()]
        scaled.data.copy_(_tensor(model, np.array(inside)) / unit)
    at = normal_equations(model, data, _tensor(model, best), everyone)
    chi2_now, gradient, information = (x.cpu().numpy() for x in at)
    _, promise = _steps(best, gradient, information, np.zeros(len(best)),
                        np.arange(len(best)), limits, scale)
    # Converged if a Gauss-Newton step would gain less than one sigma.
    converged = promise < np.maximum(1.0, chi2_now / max(1, data.flux.shape[1]))
    return Solution(best, chi2_now, converged, np.full(len(best), steps), information)


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
