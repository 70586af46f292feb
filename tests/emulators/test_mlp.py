"""The Payne baseline: its pixels and nothing between them, unless asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from emulators.networks import build
from emulators.networks.mlp import MLP

PIXELS = 5150.0 * torch.exp(1e-5 * torch.arange(50, dtype=torch.float64))


@pytest.fixture
def mlp() -> MLP:
    torch.manual_seed(1)
    return MLP(3, PIXELS, hidden=20)


@pytest.fixture
def labels() -> Tensor:
    return torch.linspace(-1, 1, 12).reshape(4, 3)


def test_it_has_the_two_layers_of_300_neurons_of_the_payne() -> None:
    shapes = [tuple(p.shape) for p in MLP(25, PIXELS).parameters()]
    assert shapes == [(300, 25), (300,), (300, 300), (300,), (50, 300), (50,)]


def test_it_is_one_minus_a_leaky_perceptron(mlp: MLP, labels: Tensor) -> None:
    x = labels.numpy()
    w = [p.detach().numpy() for p in mlp.parameters()]
    for weight, bias in ((w[0], w[1]), (w[2], w[3])):
        x = x @ weight.T + bias
        x = np.where(x > 0, x, 0.01 * x)
    expected = 1.0 - (x @ w[4].T + w[5])
    np.testing.assert_allclose(mlp(labels, PIXELS).detach(), expected, atol=1e-6)


def test_any_subset_of_its_pixels_is_exact(mlp: MLP, labels: Tensor) -> None:
    some = torch.tensor([49, 0, 7, 7, 31])
    whole = mlp(labels, PIXELS)
    torch.testing.assert_close(mlp(labels, PIXELS[some]), whole[:, some], rtol=0, atol=1e-7)


def test_wavelengths_between_its_pixels_are_refused(mlp: MLP, labels: Tensor) -> None:
    at = torch.cat([PIXELS[:3], 0.5 * (PIXELS[3:4] + PIXELS[4:5])])
    with pytest.raises(ValueError, match="only its 50 training pixels and 1 of the wavelengths"):
        mlp(labels, at)


def test_when_asked_it_interpolates_linearly(mlp: MLP, labels: Tensor) -> None:
    mlp.interpolate = True
    at = torch.linspace(float(PIXELS[0]), float(PIXELS[-1]), 33, dtype=torch.float64)
    whole = mlp(labels, PIXELS).detach().double().numpy()
    expected = np.stack([np.interp(at.numpy(), PIXELS.numpy(), flux) for flux in whole])
    np.testing.assert_allclose(mlp(labels, at).detach(), expected, atol=1e-6)


def test_interpolated_it_has_a_slope_in_the_wavelength_at_its_pixels_too(
    mlp: MLP, labels: Tensor
) -> None:
    mlp.interpolate = True
    at = PIXELS.clone().requires_grad_()
    flux = mlp(labels[:1], at)
    slope, = torch.autograd.grad(flux.sum(), at)
    expected = torch.diff(flux[0].double()) / torch.diff(PIXELS)
    torch.testing.assert_close(slope[1:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "options", "sentence"), [
    ("transformer", {"heads": 0}, "dim must be a multiple of heads, got 64 and 0"),
    ("mlp", {"layers": 0}, "layers must be at least 1, got 0"),
    ("components", {"layers": 0}, "layers must be at least 1, got 0"),
    ("components", {"components": 51}, "at least 1 and at most the 50 pixels, got 51"),
    ("components", {"components": 0}, "at least 1 and at most the 50 pixels, got 0"),
])
def test_options_that_make_no_network_are_refused(
    kind: str, options: dict[str, int], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(kind, 3, PIXELS, **options)


def test_one_pixel_is_no_spectrum() -> None:
    with pytest.raises(ValueError, match="needs two pixels or more, got 1"):
        build("transformer", 3, PIXELS[:1])


def test_unknown_networks_and_options_are_refused() -> None:
    valid = "transformer, mlp, cnn, cannon, components"
    with pytest.raises(ValueError, match=f"unknown network 'forest'; valid: {valid}"):
        build("forest", 3, PIXELS)
    with pytest.raises(ValueError, match=r"unknown option of mlp 'depth'; valid: hidden, layers"):
        build("mlp", 3, PIXELS, depth=4)
