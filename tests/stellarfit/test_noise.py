"""Whitening: what it leaves is white, whatever the covariance was made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stellarfit.noise import Noise

N = 40


def covariance(weight: np.ndarray, r: float = 0.0, modes: np.ndarray | None = None) -> np.ndarray:
    """The covariance that a noise stands for, on the pixels that are used."""
    used = np.flatnonzero(weight > 0)
    sigma = 1.0 / weight[used]
    result = np.outer(sigma, sigma) * r ** np.abs(used[:, None] - used)
    return result if modes is None else result + modes[used] @ modes[used].T


@pytest.fixture
def weight() -> np.ndarray:
    weight = np.random.default_rng(0).uniform(0.5, 2.0, N)
    weight[[0, 7, 8, 20]] = 0.0
    return weight


@pytest.mark.parametrize("r", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("n_mode", [0, 3])
def test_chi_square_is_that_of_the_inverse_covariance(weight, r, n_mode) -> None:
    rng = np.random.default_rng(1)
    modes = rng.normal(size=(N, n_mode)) if n_mode else None
    noise = Noise(torch.as_tensor(weight)[None], r)
    if modes is not None:
        noise = noise.with_modes(torch.as_tensor(modes)[None])
    residual = rng.normal(size=N)
    white = noise.whiten(torch.as_tensor(residual)[None, :, None])[0, :, 0].numpy()
    used = weight > 0
    expected = residual[used] @ np.linalg.solve(covariance(weight, r, modes), residual[used])
    assert white @ white == pytest.approx(expected, rel=1e-9)
    assert np.abs(white[~used]).max() < 1e-12


def test_stars_are_whitened_each_with_its_own(weight) -> None:
    two = torch.as_tensor(np.array([weight, weight[::-1] * 3.0]))
    noise = Noise(two, 0.3).with_modes(torch.ones(2, N, 1, dtype=torch.float64))
    columns = torch.as_tensor(np.random.default_rng(2).normal(size=(2, N, 4)))
    together = noise.whiten(columns)
    for star in (0, 1):
        alone = noise[torch.tensor([star])].whiten(columns[[star]])
        torch.testing.assert_close(alone[0], together[star])


def test_resampled_noise_is_told_by_its_correlation() -> None:
    rng = np.random.default_rng(3)
    r, pulls = 0.6, {0.0: [], 0.6: []}
    for _ in range(400):
        noise = np.zeros(300)
        for i in range(300):
            new = rng.normal()
            noise[i] = new if i == 0 else r * noise[i - 1] + np.sqrt(1 - r**2) * new
        for assumed in pulls:
            white = Noise(torch.ones(1, 300, dtype=torch.float64), assumed).whiten(
                torch.as_tensor(np.stack([noise, np.ones(300)], axis=1))[None])[0].numpy()
            level, error = white[:, 0] @ white[:, 1], np.sqrt(white[:, 1] @ white[:, 1])
            pulls[assumed].append(level / error)
    assert np.std(pulls[0.6]) == pytest.approx(1.0, abs=0.1)
    assert np.std(pulls[0.0]) > 1.7


def test_an_impossible_correlation_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 <= r < 1"):
        Noise(torch.ones(1, 3), 1.0)
