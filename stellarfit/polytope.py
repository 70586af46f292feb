"""Least squares inside a polytope.

The step of every optimiser here is the minimum of a quadratic under linear inequalities,
``G x <= h``.  Lawson & Hanson (1974, *Solving Least Squares Problems*, chapter 23) turn it
into a least-distance problem and that into non-negative least squares, which SciPy solves:
exact, finite, and indifferent to how many faces meet at the solution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import linprog, nnls

Array = NDArray[np.float64]


def minimise_quadratic(H: Array, g: Array, G: Array, h: Array) -> Array:
    """Return the x that minimises ``x.H.x / 2 - g.x`` subject to ``G x <= h``.

    Parameters
    ----------
    H : (n, n)
        Positive definite.
    g : (n,)
    G, h : (m, n), (m,)
        A polytope that is not empty.
    """
    L = np.linalg.cholesky(H)
    c = solve_triangular(L, g, lower=True)
    # With z = L^T x - c: minimise |z| subject to E z >= f.
    E = -solve_triangular(L, G.T, lower=True).T
    f = -h - E @ c
    norm = np.linalg.norm(E, axis=1)
    E, f = E[norm > 0] / norm[norm > 0, None], f[norm > 0] / norm[norm > 0]
    if len(f) == 0 or f.max() <= 0:
        z = np.zeros_like(c)
    else:
        target = np.append(np.zeros(len(c)), 1.0)
        # The unit of length matters only to rounding; the violation itself is a good one.
        unit = f.max()
        u, _ = nnls(np.vstack([E.T, f / unit]), target, maxiter=50 * len(f))
        residual = np.append(E.T @ u, f @ u / unit - 1.0)
        z = -unit * residual[:-1] / residual[-1]
    return np.asarray(solve_triangular(L, z + c, lower=True, trans="T"))


def nearest(x: Array, scale: Array, G: Array, h: Array) -> Array:
    """Return the point of the polytope nearest to x, distances counted in units of `scale`."""
    if (G @ x <= h).all():
        return x
    scaled = minimise_quadratic(np.eye(len(x)), x / scale, G * scale, h)
    return np.asarray(scaled * scale)


def bounding_box(G: Array, h: Array) -> tuple[Array, Array]:
    """Return the smallest and largest value of each coordinate, infinite where unbounded.

    Raises
    ------
    ValueError
        When the polytope is empty.
    """
    n = G.shape[1]
    low, high = np.full(n, -np.inf), np.full(n, np.inf)
    for i, axis in enumerate(np.eye(n)):
        for bound, sign in ((low, 1.0), (high, -1.0)):
            found = linprog(sign * axis, A_ub=G, b_ub=h, bounds=(None, None))
            if found.status == 2:
                raise ValueError("no point satisfies all the limits")
            if found.status == 0:
                bound[i] = found.x[i]
    return low, high
