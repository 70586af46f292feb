"""What all architectures promise: they are rebuilt from their options, and name their parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emulators import Emulator, Grid, load
from emulators.networks import NETWORKS, build, kind_of

Settings = dict[str, Any]
OPTIONS: dict[str, list[Settings]] = {
    "transformer": [{"dim": 12, "layers": 1, "heads": 3, "n_period": 6, "head": 8},
                    {"dim": 12, "layers": 1, "heads": 3, "n_period": 6, "head": 8, "tokens": 3,
                     "residual": "prenorm"}],
    "mlp": [{"hidden": 9, "layers": 3}],
    "cnn": [{"hidden": 9, "channels": 3, "levels": 2, "kernel": 3}],
    "cannon": [{}],
    "components": [{"hidden": 9, "layers": 2, "components": 7}],
}
CASES = [pytest.param(kind, options, id=f"{kind}-{i}")
         for kind, some in OPTIONS.items() for i, options in enumerate(some)]


@pytest.fixture
def random(grid: Grid, kind: str, options: Settings) -> Emulator:
    """An emulator of this kind with random weights."""
    torch.manual_seed(1)
    network = build(kind, 4, torch.as_tensor(grid.wavelength), **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Emulator(network, grid.label_set, grid.domain, grid.wavelength, "air").freeze()


def test_every_architecture_is_tried_here() -> None:
    assert OPTIONS.keys() == NETWORKS.keys()


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_saving_and_loading_gives_identical_fluxes(
    random: Emulator, kind: str, options: Settings, grid: Grid, tmp_path: Path
) -> None:
    again = load(random.save(tmp_path))
    labels = torch.as_tensor(grid.labels)
    flux = random(labels, grid.wavelength)
    assert torch.equal(again(labels, grid.wavelength), flux)
    assert flux.std(dim=0).max() > 1e-4
    assert kind_of(again.network) == kind
    assert again.network.config == random.network.config
    assert options.items() <= again.network.config.items()


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_evaluation_in_bounded_memory_is_the_same(random: Emulator, grid: Grid) -> None:
    labels = torch.as_tensor(grid.label_set.scale(grid.labels[:5]), dtype=torch.float32)
    at = torch.as_tensor(grid.wavelength)
    for chunk in (1, 70, 10**6):
        torch.testing.assert_close(random.network.evaluate(labels, at, chunk=chunk),
                                   random.network(labels, at), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_matrices_are_parameters_of_two_axes(random: Emulator) -> None:
    parameters = dict(random.network.named_parameters())
    assert len(set(random.network.matrices)) == len(random.network.matrices)
    assert all(parameters[name].ndim == 2 for name in random.network.matrices)
    assert bool(random.network.matrices) != random.network.closed_form


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_float64_weights_give_nearly_the_fluxes_of_float32(
    random: Emulator, grid: Grid
) -> None:
    labels = torch.as_tensor(grid.labels)
    coarse = random(labels, grid.wavelength)
    np.testing.assert_allclose(random.to(torch.float64)(labels, grid.wavelength), coarse, atol=1e-4)
