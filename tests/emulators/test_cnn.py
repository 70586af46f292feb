"""The convolutional ablation: any number of pixels, out of plain convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from emulators import Grid, train
from emulators.networks.cnn import CNN

PIXELS = 5150.0 * torch.exp(1e-5 * torch.arange(200, dtype=torch.float64))


@pytest.fixture
def labels() -> Tensor:
    return torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


@pytest.mark.parametrize("n_pix", [1, 7, 16, 17, 100, 127])
@pytest.mark.parametrize("levels", [0, 1, 4])
def test_it_gives_as_many_pixels_as_were_asked_for(
    n_pix: int, levels: int, labels: Tensor
) -> None:
    cnn = CNN(3, PIXELS[:n_pix], channels=4, levels=levels, kernel=3, hidden=8).double()
    flux = cnn(labels, PIXELS[:n_pix])
    assert flux.shape == (4, n_pix)
    assert flux.isfinite().all()


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Sum over the channels of x (n_in, n) of its correlations with weight (n_out, n_in, k)."""
    return np.array([
        sum(np.correlate(np.pad(row, len(k) // 2), k, "valid")
            for row, k in zip(x, kernels, strict=True)) + b
        for kernels, b in zip(weight, bias, strict=True)
    ])


def doubled(x: np.ndarray) -> np.ndarray:
    """Interpolate linearly to half pixels: their middles lie a quarter to either side."""
    n = x.shape[1]
    at = np.arange(2 * n) / 2 - 0.25
    return np.array([np.interp(at, np.arange(n), row) for row in x])


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.01 * x)


def test_it_is_one_minus_doublings_and_convolutions(labels: Tensor) -> None:
    torch.manual_seed(0)
    cnn = CNN(3, PIXELS[:30], channels=2, levels=3, kernel=5, hidden=6).double()
    w = [p.detach().numpy() for p in cnn.parameters()]
    assert [a.shape for a in w[:4]] == [(6, 3), (6,), (2 * 4, 6), (2 * 4,)]  # 4 = 30 / 8, up
    expected = []
    for star in labels.numpy():
        x = (w[2] @ leaky(w[0] @ star + w[1]) + w[3]).reshape(2, 4)
        for level in range(3):
            x = convolved(doubled(leaky(x)), w[4 + 2 * level], w[5 + 2 * level])
        expected.append(1.0 - convolved(leaky(x), w[10], w[11])[0, :30])
    np.testing.assert_allclose(cnn(labels, PIXELS[:30]).detach(), expected, atol=1e-12)


@pytest.mark.parametrize("kernel", [2, 6])
def test_a_kernel_without_a_middle_is_refused(kernel: int) -> None:
    with pytest.raises(ValueError, match=f"kernel must be odd, got {kernel}"):
        CNN(3, PIXELS, kernel=kernel)


def test_it_learns_the_lines(grid: Grid) -> None:
    emulator = train(grid, network="cnn", steps=300, batch=16, warmup=20, validate_every=300,
                     learning_rate=1e-2, progress=False,
                     options={"hidden": 64, "channels": 16, "levels": 3})
    mean = grid.flux(grid.rows("train")).mean(axis=0)
    by_the_mean = np.abs(grid.flux(grid.rows("validation")) - mean).mean()
    assert emulator.metrics["mae"] < 0.2 * by_the_mean
