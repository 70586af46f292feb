"""Least squares inside a polytope against general optimisers and the conditions for a minimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, linprog, minimize, nnls

from stellarfit.polytope import bounding_box, minimise_quadratic, nearest

BOX_G = np.vstack([np.eye(2), -np.eye(2)])
BOX_H = np.ones(4)


def random_problem(seed, n, m):
    """A quadratic whose minimum often lies outside a polytope around a random point."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n + 2, n))
    H = root.T @ root + 1e-3 * np.eye(n)
    G = rng.normal(size=(m, n))
    inside = rng.normal(size=n)
    h = G @ inside + rng.uniform(0.0, 1.0, m)
    return H, H @ rng.normal(scale=3.0, size=n), G, h


def is_minimum(x, H, g, G, h):
    """The conditions of Karush, Kuhn and Tucker: feasible, and a push only against faces."""
    size = np.linalg.norm(G, axis=1)
    slack = (h - G @ x) / size
    active = slack < 1e-6
    assert slack.min() > -1e-8
    force = g - H @ x
    scale = np.linalg.norm(g) + np.linalg.norm(H @ x) + 1e-12
    if not active.any():
        return np.linalg.norm(force) < 1e-7 * scale
    _, left = nnls((G[active] / size[active, None]).T, force)
    return left < 1e-5 * scale


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), m=st.integers(1, 60))
def test_the_solution_satisfies_the_conditions_for_a_minimum(seed, n, m):
    problem = random_problem(seed, n, m)
    assert is_minimum(minimise_quadratic(*problem), *problem)


@pytest.mark.parametrize("seed", range(12))
def test_the_solution_is_that_of_a_general_optimiser(seed):
    H, g, G, h = random_problem(seed, 2 + seed % 5, 4 + 2 * seed)
    ours = minimise_quadratic(H, g, G, h)
    theirs = minimize(
        lambda x: 0.5 * x @ H @ x - g @ x, linprog(np.zeros(len(g)), G, h, bounds=(None, None)).x,
        jac=lambda x: H @ x - g, method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
        constraints={"type": "ineq", "fun": lambda x: h - G @ x, "jac": lambda x: -G},
    )
    np.testing.assert_allclose(ours, theirs.x, rtol=0, atol=1e-5)


def test_without_active_faces_it_is_the_newton_step():
    H, g, G, _ = random_problem(3, 5, 20)
    np.testing.assert_allclose(minimise_quadratic(H, g, G, np.full(20, 1e3)),
                               np.linalg.solve(H, g), rtol=1e-9)
    free = minimise_quadratic(H, g, np.zeros((0, 5)), np.zeros(0))
    np.testing.assert_allclose(free, np.linalg.solve(H, g), rtol=1e-9)


def test_an_active_face_is_touched_and_a_correlated_parameter_slides_along_it():
    H = np.array([[2.0, 1.0], [1.0, 2.0]])
    x = minimise_quadratic(H, H @ np.array([3.0, 0.0]), BOX_G, np.full(4, 2.0))
    np.testing.assert_allclose(x, [2.0, 0.5], atol=1e-12)


def test_a_corner_where_many_faces_meet_is_no_trouble():
    angles = np.linspace(0.0, np.pi / 2, 40)
    G = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    h = G @ np.array([1.0, 1.0])                              # forty faces through one point
    doubled = np.vstack([G, G]), np.append(h, h)              # and each of them twice
    np.testing.assert_allclose(
        minimise_quadratic(np.diag([1.0, 9.0]), np.array([5.0, 30.0]), *doubled), [1, 1],
        atol=1e-10)


def test_starting_in_a_corner_a_step_along_the_edge_is_found():
    x = minimise_quadratic(np.eye(2), np.array([5.0, -0.5]), BOX_G, np.array([0.0, 0, 2, 2]))
    np.testing.assert_allclose(x, [0.0, -0.5], atol=1e-12)


def test_a_polytope_that_is_a_single_point_returns_it():
    point = np.array([0.3, -0.7])
    h = BOX_G @ point
    np.testing.assert_allclose(minimise_quadratic(np.eye(2), np.array([9.0, 9.0]), BOX_G, h),
                               point, atol=1e-9)


def test_violations_of_any_size_end_inside():
    for far in (1e-12, 1e-6, 1.0, 1e6, 1e9):
        x = minimise_quadratic(np.eye(2), np.array([1.0 + far, 0.2]), BOX_G, BOX_H)
        np.testing.assert_allclose(x, [1.0, 0.2], rtol=0, atol=1e-12 + 1e-15 * far)


def test_badly_scaled_parameters_are_no_trouble():
    unit = np.array([1e3, 1e-2, 1.0, 1e4])
    H, g, G, h = random_problem(11, 4, 30)
    plain = minimise_quadratic(H, g, G, h)
    scaled = minimise_quadratic(H / np.outer(unit, unit), g / unit, G / unit, h)
    np.testing.assert_allclose(scaled / unit, plain, rtol=0, atol=1e-7)


def test_nearest_leaves_a_point_inside_where_it_is():
    x = np.array([0.25, -0.999])
    np.testing.assert_allclose(nearest(x, np.array([3.0, 0.1]), BOX_G, BOX_H), x, atol=1e-15)


def test_nearest_counts_distances_in_the_scale_it_is_given():
    G, h = np.array([[1.0, 1.0]]), np.array([0.0])
    np.testing.assert_allclose(nearest(np.ones(2), np.ones(2), G, h), [0, 0], atol=1e-12)
    loose = nearest(np.ones(2), np.array([3.0, 1.0]), G, h)
    np.testing.assert_allclose(loose, [1 - 1.8, 1 - 0.2], atol=1e-12)


def test_nearest_agrees_with_a_general_optimiser_and_repeats_itself():
    _, g, G, h = random_problem(5, 3, 12)
    scale, x = np.array([2.0, 0.3, 1.0]), 5.0 * g / np.linalg.norm(g)
    ours = nearest(x, scale, G, h)
    theirs = minimize(lambda y: (((y - x) / scale) ** 2).sum(), ours + 0.01, method="trust-constr",
                      jac=lambda y: 2 * (y - x) / scale**2, hess=lambda y: np.diag(2 / scale**2),
                      constraints=LinearConstraint(G, -np.inf, h), bounds=Bounds(-99, 99),
                      options={"gtol": 1e-10, "xtol": 1e-12, "barrier_tol": 1e-10})
    np.testing.assert_allclose(ours, theirs.x, rtol=0, atol=1e-4)
    np.testing.assert_allclose(nearest(ours, scale, G, h), ours, rtol=0, atol=1e-12)


def test_bounding_box_of_a_simplex_and_of_an_open_polytope():
    G = np.vstack([-np.eye(3), np.ones(3)])
    low, high = bounding_box(G, np.array([0.0, 0, 0, 2]))
    np.testing.assert_allclose([low, high], [[0, 0, 0], [2, 2, 2]], atol=1e-9)
    low, high = bounding_box(np.array([[1.0, 0.0]]), np.array([4.0]))
    assert low.tolist() == [-np.inf, -np.inf]
    assert high.tolist() == [4.0, np.inf]


def test_an_empty_polytope_is_refused():
    with pytest.raises(ValueError, match="no point satisfies all the limits"):
        bounding_box(np.array([[1.0], [-1.0]]), np.array([0.0, -1.0]))
