"""What is minimised, and by whom: the loss in numpy, the average, the optimisers' shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emulators import Emulator, Grid, Recipe, lora, train
from emulators.batches import Batch
from emulators.networks import build
from emulators.objective import Objective, optimisers_of
from emulators.run import Run

Settings = dict[str, Any]
NETWORKS: dict[str, tuple[str, Settings]] = {
    "a token per label": ("transformer", {"dim": 12, "layers": 2, "heads": 3, "n_period": 8,
                                          "head": 8}),
    "tokens of all labels": ("transformer", {"dim": 12, "layers": 2, "heads": 3, "n_period": 8,
                                             "head": 8, "tokens": 3}),
    "mlp": ("mlp", {"hidden": 12, "layers": 3}),
    "cnn": ("cnn", {"hidden": 12, "channels": 4}),
}


class Free(nn.Module):
    """A network that gives whatever its parameter holds."""

    float32_part = None

    def __init__(self, flux: np.ndarray) -> None:
        super().__init__()
        self.flux = nn.Parameter(torch.tensor(flux, dtype=torch.float32))

    def forward(self, labels: Tensor, wavelength: Tensor) -> Tensor:
        return self.flux


def problem(shared: bool) -> tuple[Batch, np.ndarray, np.ndarray, np.ndarray]:
    """A batch with gaps, and what a network makes of it: batch, emulated, true, weight."""
    rng = np.random.default_rng(0)
    emulated, true = rng.uniform(0.0, 1.1, (2, 6, 40))
    true[rng.random(true.shape) < 0.2] = np.nan
    true[3] = np.nan
    weight = rng.uniform(0.0, 2.0, 40 if shared else (6, 40))
    at = torch.linspace(5000.0, 5001.0, 40, dtype=torch.float64)
    batch = Batch(torch.zeros(6, 2), at if shared else at.expand(6, 40),
                  torch.tensor(true, dtype=torch.float32),
                  torch.tensor(weight, dtype=torch.float32))
    return batch, emulated, true, np.broadcast_to(weight, true.shape)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("emphasis", [0.0, 3.0])
def test_the_loss_is_a_weighted_mean_square_of_what_is_known(
    shared: bool, emphasis: float
) -> None:
    batch, emulated, true, weight = problem(shared)
    network = Free(emulated)
    loss = Objective(network, Recipe(emphasis=emphasis))(batch)
    known = np.isfinite(true)
    w, e, f = weight[known], emulated[known], true[known]
    w = w * (1.0 + emphasis * np.maximum(1.0 - f, 0.0))  # emission counts like continuum
    expected = np.sum(w * (e - f) ** 2) / true.size
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    slope = np.zeros_like(true)
    slope[known] = 2.0 * w * (e - f) / true.size
    np.testing.assert_allclose(network.flux.grad, slope, rtol=1e-4, atol=1e-9)
    assert (network.flux.grad[torch.tensor(~known)] == 0.0).all()


def test_a_line_core_counts_one_plus_emphasis_times_its_depth() -> None:
    batch = Batch(torch.zeros(1, 1), torch.tensor([5000.0]).double(), torch.tensor([[0.1]]),
                  torch.ones(1))
    network = Free(np.array([[0.2]]))
    plain, heavy = (float(Objective(network, Recipe(emphasis=e))(batch).detach())
                    for e in (0.0, 4.0))
    assert heavy / plain == pytest.approx(1.0 + 4.0 * 0.9)


def test_equal_parts_of_a_batch_average_to_the_whole() -> None:
    batch, emulated, _, _ = problem(shared=False)
    whole = Objective(Free(emulated), Recipe())(batch)
    parts = [Objective(Free(e), Recipe())(part)
             for e, part in zip(np.split(emulated, 3), batch.parts(3), strict=True)]
    assert float(torch.stack(parts).mean().detach()) == pytest.approx(float(whole.detach()))


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, grid: Grid) -> nn.Module:
    torch.manual_seed(0)
    kind, options = NETWORKS[request.param]
    return build(kind, 4, torch.as_tensor(grid.wavelength), **options)


def test_bf16_gives_nearly_the_gradient_of_float32_to_float32_weights(
    grid: Grid, network: nn.Module
) -> None:
    labels = torch.as_tensor(grid.label_set.scale(grid.labels), dtype=torch.float32)
    batch = Batch(labels, torch.as_tensor(grid.wavelength),
                  torch.as_tensor(grid.flux(np.arange(60))), torch.ones(200))
    gradients = []
    for precision in ("float32", "bf16"):
        network.zero_grad()
        Objective(network, Recipe(precision=precision))(batch).backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in network.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    exact, coarse = gradients
    assert not torch.equal(exact, coarse)
    assert (coarse - exact).norm() < 0.05 * exact.norm()


def test_in_bf16_labels_closer_than_its_rounding_are_told_apart(grid: Grid) -> None:
    torch.manual_seed(0)
    network = build("transformer", 4, torch.as_tensor(grid.wavelength), dim=32, layers=2)
    objective = Objective(network, Recipe(precision="bf16"))

    def loss(label: float) -> float:
        batch = Batch(torch.full((1, 4), label), torch.as_tensor(grid.wavelength),
                      torch.zeros(1, 200), torch.ones(200))
        return float(objective(batch).detach())

    # bfloat16 has no number between 0.75 and 0.75390625.
    assert len({loss(0.75 + step) for step in (0.0, 1e-3, 1.8e-3)}) == 3


@pytest.mark.parametrize(("optimiser", "steps", "tolerance"), [
    ("adamw", 20, 1e-6),
    # Muon works in bfloat16: one step differs by its rounding, and later ones by more.
    ("muon", 1, 1e-4),
])
def test_working_through_a_batch_in_parts_gives_the_same_weights(
    grid: Grid, short: Settings, optimiser: str, steps: int, tolerance: float
) -> None:
    settings = {**short, "steps": steps, "optimiser": optimiser, "warmup": 1}
    whole, parts = (train(grid, accumulate=n, **settings) for n in (1, 4))
    kept = parts.network.state_dict()
    for name, tensor in whole.network.state_dict().items():
        off = (kept[name] - tensor).double()
        assert float(off.square().mean().sqrt()) < tolerance
        # Some processors round a single weight differently by a little more.
        assert float(off.abs().max()) < 2.0 * tolerance


def test_pixels_without_weight_have_no_influence(
    write_grid: Callable[..., Path], short: Settings, same: Callable[..., bool]
) -> None:
    trained = []
    for name, nonsense in (("a.h5", 0), ("b.h5", 40_000)):
        path = write_grid(name)
        with h5py.File(path, "r+") as file:
            weight, stored = np.ones(200), file["flux"][:]
            weight[50:90] = 0.0
            stored[:, 50:90] ^= nonsense
            file["weight"], file["flux"][:] = weight, stored
        trained.append(train(path, **short))
    assert same(*trained)
    assert trained[0].metrics == trained[1].metrics  # nor in what chooses the best state
    with h5py.File(path, "r+") as file:
        del file["weight"]
    assert not same(train(path, **short), trained[1])


def test_what_is_kept_is_the_moving_average_of_the_weights(
    grid: Grid, short: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, np.ndarray]] = []

    def snapshot(run: Run) -> None:
        states.append({n: p.detach().double().numpy().copy() for n, p in run.parameters.items()})

    begin, follow = Run.begin, Run.follow
    monkeypatch.setattr(Run, "begin", lambda run: (snapshot(run), begin(run))[1])
    monkeypatch.setattr(Run, "follow", lambda run, step: (snapshot(run), follow(run, step))[1])
    emulator = train(grid, ema=0.6, **{**short, "validate_every": 20})
    start, *after = states
    assert len(after) == 20
    for name, average in start.items():
        for step, state in enumerate(after):
            decay = min(0.6, (1 + step) / (10 + step))
            average = decay * average + (1 - decay) * state[name]
        np.testing.assert_allclose(emulator.network.state_dict()[name], average, atol=1e-6)
        assert not np.array_equal(average, after[-1][name])


def changed(grid: Grid, source: nn.Module, **settings: Any) -> set[str]:
    """Which parameters a few steps of training move."""
    labels = Emulator(source, grid.label_set, grid.domain, grid.wavelength, "air")
    before = {n: p.detach().clone() for n, p in source.named_parameters()}
    tuned = train(grid, init=labels, steps=3, batch=8, pixels=64, warmup=0, weight_decay=0.0,
                  progress=False, **settings)
    return {n for n, p in tuned.network.named_parameters() if not torch.equal(p, before[n])}


def test_muon_moves_the_matrices_and_adamw_the_rest(grid: Grid, network: nn.Module) -> None:
    matrices = set(network.matrices)
    everything = {n for n, _ in network.named_parameters()}
    assert matrices < everything
    assert all(dict(network.named_parameters())[n].ndim == 2 for n in matrices)
    assert changed(grid, network, learning_rate=0.0) == matrices
    assert changed(grid, network, matrix_rate=0.0) == everything - matrices
    assert changed(grid, network, optimiser="adamw", matrix_rate=0.0) == everything


def test_muon_takes_orthogonal_steps_of_the_size_of_those_of_adamw(
    grid: Grid, emulator: Emulator
) -> None:
    before = {n: p.detach().clone() for n, p in emulator.network.named_parameters()}
    tuned = train(grid, init=emulator, steps=1, batch=8, pixels=64, warmup=0, weight_decay=0.0,
                  progress=False, matrix_rate=1e-3)
    name = "blocks.0.output.weight"
    step = (dict(tuned.network.named_parameters())[name] - before[name]) / 1e-3
    sizes = torch.linalg.svdvals(step)
    assert sizes.max() < 2.5 * sizes.median()  # five Newton-Schulz iterations are rough
    assert step.square().mean().sqrt() == pytest.approx(0.2, rel=0.25)


def test_the_optimisers_share_adapters_as_they_share_weights(emulator: Emulator) -> None:
    lora.attach(emulator.network, lora.Lora(rank=2, unfreeze=("head.*", "*norm*")))
    adamw, muon = optimisers_of(emulator.network, Recipe())
    names = {p: n for n, p in emulator.network.named_parameters()}
    by_muon = {names[p] for p in muon.param_groups[0]["params"]}
    by_adamw = {names[p] for p in adamw.param_groups[0]["params"]}
    learnt = {n for n, p in emulator.network.named_parameters() if p.requires_grad}
    assert by_muon | by_adamw == learnt
    assert by_muon == {n for n in learnt if n.endswith((".A", ".B"))}
    assert by_adamw == {n for n in learnt if n.startswith("head.") or "norm" in n}


def test_adamw_alone_has_everything(emulator: Emulator) -> None:
    optimiser, = optimisers_of(emulator.network, Recipe(optimiser="adamw"))
    assert isinstance(optimiser, torch.optim.AdamW)
    assert len(optimiser.param_groups[0]["params"]) == len(list(emulator.network.parameters()))
