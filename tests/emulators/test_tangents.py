"""Derivatives along directions of the labels: those of the flux, whatever the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from emulators import Domain, Emulator, LabelSet
from emulators.lora import Lora, attach
from emulators.networks import build
from emulators.networks.tangents import flux_and_tangents
from emulators.networks.transformer import Transformer

PIXELS = 5150.0 * torch.exp(1e-5 * torch.arange(300, dtype=torch.float64))


def derivatives(function, labels: Tensor, ways: Tensor) -> Tensor:
    """(n_spec, n_direction, n_pix) by automatic differentiation, backwards."""
    full = torch.autograd.functional.jacobian(function, labels)   # (n_spec, n_pix, n_spec, n_label)
    own = torch.einsum("spsl->spl", full)
    return torch.einsum("spl,skl->skp", own, ways)


@pytest.mark.parametrize("residual", ["residual", "prenorm"])
@pytest.mark.parametrize(("tokens", "output"), [(5, "depth"), (None, "depth"), (5, "log_depth")])
def test_the_transformers_own_derivatives_are_those_of_autograd(residual, tokens, output) -> None:
    torch.manual_seed(1)
    network = Transformer(6, PIXELS, dim=24, layers=3, heads=4, tokens=tokens, n_period=8, head=16,
                          residual=residual, output=output).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    labels, ways = torch.randn(3, 6).double(), torch.randn(3, 4, 6).double()
    flux, tangents = flux_and_tangents(network, labels, ways, PIXELS, chunk=200)
    torch.testing.assert_close(flux, network(labels, PIXELS))
    expected = derivatives(lambda x: network(x, PIXELS), labels, ways)
    torch.testing.assert_close(tangents, expected, rtol=1e-9, atol=1e-11)
    assert tangents.abs().max() > 0.01


def test_those_of_an_adapted_transformer_know_its_adapters() -> None:
    torch.manual_seed(2)
    network = Transformer(4, PIXELS, dim=16, layers=2, heads=2, n_period=8, head=16)
    attach(network, Lora(rank=2))
    network.double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(".B"):
                parameter.normal_()
    labels, ways = torch.randn(1, 4).double(), torch.randn(1, 2, 4).double()
    _, tangents = flux_and_tangents(network, labels, ways, PIXELS, chunk=4096)
    expected = derivatives(lambda x: network(x, PIXELS), labels, ways)
    torch.testing.assert_close(tangents, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["transformer", "mlp", "cnn", "cannon", "components"])
def test_an_emulator_gives_them_per_unit_of_its_labels(kind) -> None:
    torch.manual_seed(3)
    low, high = np.array([4000.0, 1.0, -2.0]), np.array([7000.0, 5.0, 0.5])
    network = build(kind, 3, PIXELS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    labels = LabelSet(("teff", "logg", "fe_h"), ("K", "dex", "dex"), tuple(low), tuple(high))
    emulator = Emulator(network.double(), labels, Domain.box(low, high), PIXELS.numpy(),
                        "air").freeze()
    at = torch.tensor([[5000.0, 3.0, -0.5], [6000.0, 4.0, 0.0]]).double()
    ways = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]]).double()
    flux, tangents = emulator.flux_and_tangents(at, ways, PIXELS)
    torch.testing.assert_close(flux, emulator.flux(at, PIXELS))
    expected = derivatives(lambda x: emulator.flux(x, PIXELS), at, ways.expand(2, 2, 3))
    torch.testing.assert_close(tangents.transpose(0, 1), expected, rtol=1e-7, atol=1e-10)


def test_in_bfloat16_fluxes_stay_as_fine_as_those_of_a_call() -> None:
    torch.manual_seed(4)
    network = Transformer(3, PIXELS, dim=16, layers=2, heads=2, n_period=8, head=16).bfloat16()
    labels, ways = torch.randn(2, 3).bfloat16(), torch.randn(2, 2, 3).bfloat16()
    flux, tangents = flux_and_tangents(network, labels, ways, PIXELS, chunk=4096)
    assert flux.dtype == tangents.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(flux, network(labels, PIXELS), rtol=0, atol=0.03)
