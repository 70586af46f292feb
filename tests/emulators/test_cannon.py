"""The Cannon: quadratic, held by a ridge whose strength the spectra choose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from emulators import Grid, evaluate, load, train
from emulators.networks import build
from emulators.networks.cannon import RIDGES, Cannon

PIXELS = 5150.0 * torch.exp(1e-5 * torch.arange(7, dtype=torch.float64))


def cannon_of(labels: np.ndarray, flux: np.ndarray, *, chunk: int = 10**6) -> Cannon:
    """A Cannon in double precision, solved for these spectra."""
    cannon = Cannon(labels.shape[1], PIXELS[:flux.shape[1]]).double()
    solver = cannon.solver()
    for start in range(0, len(labels), chunk):
        solver.add(torch.as_tensor(labels[start:start + chunk]),
                   torch.as_tensor(flux[start:start + chunk]))
    solver.solve()
    return cannon


def quadratic_terms(labels: np.ndarray) -> np.ndarray:
    n_label = labels.shape[1]
    products = [labels[:, i] * labels[:, j] for i in range(n_label) for j in range(i, n_label)]
    return np.column_stack([labels, *products])


def noisy(n_spec: int, n_label: int, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Labels in [-1, 1] and fluxes that are quadratic in them but for noise."""
    rng = np.random.default_rng(4)
    labels = rng.uniform(-1.0, 1.0, (n_spec, n_label))
    X = quadratic_terms(labels)
    theta = rng.normal(0.0, 0.1, (X.shape[1], 7)) * rng.choice([0.0, 1.0], (X.shape[1], 7))
    flux = 1.0 - (0.2 + X @ theta) + rng.normal(0.0, noise, (n_spec, 7)) * np.arange(1, 8)
    return labels, flux


def by_the_hat_matrix(labels: np.ndarray, flux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ridge of Golub, Heath & Wahba 1979, eq. 1.4, one alpha and one pixel at a time."""
    X, y = quadratic_terms(labels), 1.0 - flux
    Xc, yc = X - X.mean(axis=0), y - y.mean(axis=0)
    n, n_term = X.shape
    ridges = RIDGES.numpy() * np.trace(Xc.T @ Xc) / n_term
    alphas, thetas = [], []
    for pixel in yc.T:
        scores, solutions = [], []
        for alpha in ridges:
            inverse = np.linalg.inv(Xc.T @ Xc + alpha * np.eye(n_term))
            hat = np.full((n, n), 1.0 / n) + Xc @ inverse @ Xc.T
            rest = np.eye(n) - hat
            scores.append(np.sum((rest @ pixel) ** 2) / n / (np.trace(rest) / n) ** 2)
            solutions.append(inverse @ Xc.T @ pixel)
        best = int(np.argmin(scores))
        alphas.append(ridges[best])
        thetas.append(solutions[best])
    return np.array(alphas), np.transpose(thetas)


@pytest.mark.parametrize("n_label", [1, 3, 5])
def test_an_exactly_quadratic_spectrum_is_recovered(n_label: int) -> None:
    labels, flux = noisy(120, n_label, noise=0.0)
    cannon = cannon_of(labels[:80], flux[:80])
    emulated = cannon(torch.as_tensor(labels[80:]), PIXELS).detach()
    assert flux[80:].std() > 0.01
    np.testing.assert_allclose(emulated, flux[80:], atol=1e-6)


@pytest.mark.parametrize(("n_spec", "n_label"), [(60, 3), (40, 4), (25, 5)])
def test_each_pixel_has_the_ridge_that_cross_validation_prefers(
    n_spec: int, n_label: int
) -> None:
    labels, flux = noisy(n_spec, n_label)
    alphas, theta = by_the_hat_matrix(labels, flux)
    assert len(set(alphas)) > 2  # the pixels do not agree, as their noise differs
    cannon = cannon_of(labels, flux)
    np.testing.assert_allclose(cannon.theta.detach(), theta, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n_spec", "n_label"), [(60, 3), (14, 5), (30, 12)])
def test_primal_and_dual_solutions_are_the_same(n_spec: int, n_label: int) -> None:
    # (X^T X + a)^-1 X^T y = X^T (X X^T + a)^-1 y: the second is no larger than the spectra are
    # many, so that more terms than spectra (90 against 30) are no difficulty to it
    labels, flux = noisy(n_spec, n_label)
    X, y = quadratic_terms(labels), 1.0 - flux
    Xc, yc = X - X.mean(axis=0), y - y.mean(axis=0)
    cannon = cannon_of(labels, flux)
    theta = cannon.theta.detach().numpy()
    n_term = X.shape[1]
    ridges = RIDGES.numpy() * np.trace(Xc.T @ Xc) / n_term
    for pixel, found in zip(yc.T, theta.T, strict=True):
        duals = [Xc.T @ np.linalg.solve(Xc @ Xc.T + a * np.eye(n_spec), pixel) for a in ridges]
        assert min(np.abs(dual - found).max() for dual in duals) < 1e-6 * np.abs(found).max()
    emulated = cannon(torch.as_tensor(labels), PIXELS).detach().numpy()
    np.testing.assert_allclose(1.0 - emulated, y.mean(axis=0) + Xc @ theta, atol=1e-9)


def test_few_spectra_of_many_labels_are_not_fitted_to_their_noise() -> None:
    labels, flux = noisy(200, 12, noise=0.005)  # 90 terms
    truth = noisy(200, 12, noise=0.0)[1]
    cannon = cannon_of(labels[:85], flux[:85])
    error = cannon(torch.as_tensor(labels[85:]), PIXELS).detach().numpy() - truth[85:]
    spread = truth[85:] - truth[:85].mean(axis=0)
    assert error.std() < 0.8 * spread.std()
    X = quadratic_terms(labels)  # least squares of least norm: no ridge at all
    mean = X[:85].mean(axis=0)
    bare = np.linalg.lstsq(X[:85] - mean, flux[:85] - flux[:85].mean(axis=0))[0]
    without = flux[:85].mean(axis=0) + (X[85:] - mean) @ bare - truth[85:]
    assert error.std() < without.std()


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_spectra_may_come_in_chunks(chunk: int) -> None:
    labels, flux = noisy(64, 3)
    whole, streamed = cannon_of(labels, flux), cannon_of(labels, flux, chunk=chunk)
    torch.testing.assert_close(streamed.theta, whole.theta, rtol=0, atol=1e-10)
    torch.testing.assert_close(streamed.constant, whole.constant, rtol=0, atol=1e-10)


def test_a_pixel_that_never_changes_is_a_constant() -> None:
    labels, flux = noisy(50, 3)
    flux[:, 2] = 0.75
    emulated = cannon_of(labels, flux)(torch.as_tensor(labels), PIXELS).detach()
    np.testing.assert_allclose(emulated[:, 2], 0.75, atol=1e-12)


def test_a_label_that_never_changes_is_no_difficulty() -> None:
    labels, flux = noisy(50, 3)
    labels = np.column_stack([labels, np.zeros(50)])
    assert cannon_of(labels, flux)(torch.as_tensor(labels), PIXELS).isfinite().all()


def test_gaps_are_refused(write_grid: Callable[..., Path]) -> None:
    labels, flux = noisy(20, 2)
    flux[3, 1] = np.nan
    with pytest.raises(ValueError, match="the Cannon needs fluxes without gaps"):
        cannon_of(labels, flux)
    path = write_grid()
    fluxes = Grid(path).flux(np.arange(60))
    fluxes[7, 7] = np.nan
    with h5py.File(path, "r+") as file:
        del file["flux"]
        file["flux"] = fluxes
    with pytest.raises(ValueError, match="the Cannon needs fluxes without gaps"):
        train(path, network="cannon", progress=False)


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="155 labels make 12245 quadratic terms; more than 12000"):
        build("cannon", 155, PIXELS)


def test_it_learns_the_lines_of_a_grid_from_its_training_spectra(
    grid: Grid, write_grid: Callable[..., Path], tmp_path: Path, same: Callable[..., bool]
) -> None:
    emulator = train(grid, network="cannon", out=tmp_path / "run", progress=False)
    validation = grid.flux(grid.rows("validation"))
    mean = np.abs(validation - grid.flux(grid.rows("train")).mean(axis=0)).mean()
    assert emulator.metrics == evaluate(emulator, grid)
    assert emulator.metrics["mae"] < 0.2 * mean
    assert same(load(tmp_path / "run" / "best"), emulator)
    path = write_grid()
    with h5py.File(path, "r+") as file:
        stored = file["flux"][:]
        stored[4::5] = 7  # the validation spectra
        file["flux"][:] = stored
    assert same(train(path, network="cannon", progress=False), emulator)


def test_it_is_solved_alike_however_the_grid_is_read(
    grid_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import emulators.training

    whole = train(Grid(grid_path), network="cannon", progress=False)
    solve = emulators.training._solve
    monkeypatch.setattr(emulators.training, "_solve", lambda run: solve(run, chunk=5))
    lazily = train(Grid(grid_path, memory=0), network="cannon", progress=False)
    at = torch.as_tensor(whole.pixels)
    labels = torch.as_tensor(Grid(grid_path).labels)
    torch.testing.assert_close(lazily.flux(labels, at), whole.flux(labels, at), rtol=0, atol=1e-5)
