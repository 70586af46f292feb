"""Label vectors drawn evenly from a domain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from emulators.labels import Domain, LabelSet, is_abundance

Array = NDArray[np.float64]
#: turns along all directions, after which a draw has forgotten where it began
SWEEPS = 40


def uniform(domain: Domain, labels: LabelSet, count: int, rng: np.random.Generator) -> Array:
    """Return label vectors (count, n_label) spread uniformly over a domain.

    Each is the end of a chain of its own from the middle of the polytope (Gibbs sampling):
    along one label after the other, and along all abundances together, to a uniform place
    between the faces there.

    Raises
    ------
    ValueError
        For a domain that is empty, flat or without an end.
    """
    low, high = _box(domain)
    varied = high - low > 1e-9 * (np.abs(low) + np.abs(high))
    directions = [d for d in np.eye(len(labels)) * (high - low) if d.any()]
    together = np.array([float(is_abundance(n)) for n in labels.names]) * varied
    if together.sum() > 1:
        directions.append(together)
    # faces of the labels that vary, the others where they always are
    A, b = domain.A * varied, domain.b - domain.A @ np.where(varied, 0.0, low)
    some = A.any(axis=1)
    A, b = A[some], b[some]
    place = np.tile(_middle(A, b, np.where(varied, high - low, 1.0), low), (count, 1))
    place[:, ~varied] = low[~varied]
    slack = b - place @ A.T
    for _ in range(SWEEPS):
        for direction in directions:
            rate = A @ direction
            with np.errstate(divide="ignore", invalid="ignore"):
                steps = slack / rate
            ahead = np.where(rate > 0, steps, np.inf).min(axis=1)
            behind = np.where(rate < 0, steps, -np.inf).max(axis=1)
            t = behind + (ahead - behind).clip(min=0.0) * rng.random(count)
            place += t[:, None] * direction
            slack -= t[:, None] * rate
    return place


def _box(domain: Domain) -> tuple[Array, Array]:
    """Return the lowest and the highest value (n_label,) of each label in a domain."""
    n = domain.A.shape[1]
    ends = []
    for direction in np.concatenate([np.eye(n), -np.eye(n)]):
        found = linprog(direction, A_ub=domain.A, b_ub=domain.b, bounds=(None, None))
        if found.x is None:
            raise ValueError("the domain is empty, or has no end in some direction")
        ends.append(float(found.x @ direction))
    return np.array(ends[:n]), -np.array(ends[n:])


def _middle(A: Array, b: Array, scale: Array, origin: Array) -> Array:
    """Return the centre of the largest ball, in units of `scale`, inside a polytope."""
    G, h = A * scale, b - A @ origin
    norm = np.linalg.norm(G, axis=1)
    n = G.shape[1]
    found = linprog(np.r_[np.zeros(n), -1.0], A_ub=np.column_stack([G, norm]), b_ub=h,
                    bounds=[(None, None)] * n + [(0.0, 1.0)])
    if found.x is None or found.x[-1] < 1e-9:
        raise ValueError("the domain is empty or flat: no label vector lies inside it")
    return np.asarray(origin + scale * found.x[:n])
