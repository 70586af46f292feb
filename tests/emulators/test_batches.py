"""Batches: a function of seed and step, shared by the processes, fair to every spectrum."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from emulators import Emulator, Grid, Recipe
from emulators.batches import Batch, Batches
from emulators.networks import build


def rows_of(grid: Grid, emulator: Emulator, batch: Batch) -> list[int]:
    """Which rows of the grid the spectra of a batch are; no two have the same labels."""
    scaled = emulator.labels.scale(grid.labels).astype(np.float32)
    return [int(np.flatnonzero((scaled == one).all(axis=1))[0]) for one in batch.labels.numpy()]


def contents(grid: Grid, emulator: Emulator, batch: Batch) -> set[tuple[int, bytes, bytes, bytes]]:
    """A batch as a set of (row, wavelengths, fluxes, weights)."""
    rows = rows_of(grid, emulator, batch)
    parts = zip(rows, batch.wavelength.numpy(), batch.flux.numpy(), batch.weight.numpy(),
                strict=True)
    found = {(row, *(x.tobytes() for x in rest)) for row, *rest in parts}
    assert len(found) == len(rows)
    return found


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, n), getattr(other, n))
               for n in ("labels", "wavelength", "flux", "weight"))


def test_a_batch_depends_on_seed_and_step_alone(grid_path: Path, emulator: Emulator) -> None:
    recipe = Recipe(batch=8, pixels=20, seed=3)
    straight = Batches(Grid(grid_path), emulator, recipe)
    expected = [straight(step) for step in range(15)]
    again = Batches(Grid(grid_path), emulator, recipe)
    torch.manual_seed(99)
    for step in (14, 2, 7, 0, 13):  # as after a kill, or in no order at all
        assert equal(again(step), expected[step])
    other = Batches(Grid(grid_path), emulator, Recipe(batch=8, pixels=20, seed=4))
    assert not equal(other(0), expected[0])


@pytest.mark.parametrize(("batch", "world"), [(8, 2), (12, 3), (16, 4), (10, 2), (48, 2)])
def test_the_processes_share_the_batch_of_one(
    grid: Grid, emulator: Emulator, batch: int, world: int
) -> None:
    recipe = Recipe(batch=batch, pixels=20)
    alone = Batches(grid, emulator, recipe)
    shares = [Batches(grid, emulator, recipe, rank=r, world=world) for r in range(world)]
    for step in (0, 1, 5, 17):
        parts = [contents(grid, emulator, share(step)) for share in shares]
        assert [len(p) for p in parts] == [batch // world] * world
        assert set.union(*parts) == contents(grid, emulator, alone(step))


@pytest.mark.parametrize(("batch", "world"), [(8, 2), (12, 3), (10, 2)])
def test_the_processes_have_spectra_of_their_own_and_leave_none(
    grid: Grid, emulator: Emulator, batch: int, world: int
) -> None:
    recipe = Recipe(batch=batch)
    rows = [Batches(grid, emulator, recipe, rank=r, world=world).rows for r in range(world)]
    assert sorted(np.concatenate(rows)) == grid.rows("train").tolist()


@pytest.mark.parametrize("memory", [0, 2e9])
def test_a_process_reads_its_own_spectra_alone(
    grid_path: Path, emulator: Emulator, memory: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, read = Grid(grid_path, memory=memory), set()
    take = h5py.Dataset.__getitem__

    def spy(self: h5py.Dataset, which: Any, *rest: Any) -> Any:
        if self.name == "/flux":
            read.update(np.arange(grid.n_spec)[which].tolist())
        return take(self, which, *rest)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    batches = Batches(grid, emulator, Recipe(batch=8, pixels=20), rank=1, world=2)
    for step in range(30):
        batches(step)
    assert read == set(batches.rows.tolist())
    assert len(read) == 24


@pytest.mark.parametrize(("batch", "world"), [(8, 1), (8, 2), (16, 1), (48, 1)])
def test_every_spectrum_is_seen_once_in_every_epoch(
    grid: Grid, emulator: Emulator, batch: int, world: int
) -> None:
    recipe = Recipe(batch=batch, pixels=1)
    shares = [Batches(grid, emulator, recipe, rank=r, world=world) for r in range(world)]
    seen: Counter[int] = Counter({row: 0 for row in grid.rows("train").tolist()})
    per_epoch = 48 // batch
    for step in range(7 * per_epoch):
        for share in shares:
            seen.update(rows_of(grid, emulator, share(step)))
        assert set(seen) == set(grid.rows("train").tolist())
        assert max(seen.values()) - min(seen.values()) <= 1
    assert set(seen.values()) == {7}


@pytest.mark.parametrize("batch", [10, 7, 40])
def test_a_batch_that_does_not_divide_the_grid_is_fair_to_one_part_in_the_epoch(
    grid: Grid, emulator: Emulator, batch: int
) -> None:
    # 48 spectra fill some slots with one more than others: those come round a step later
    batches = Batches(grid, emulator, Recipe(batch=batch, pixels=1))
    steps = 60
    seen = Counter(r for step in range(steps) for r in rows_of(grid, emulator, batches(step)))
    assert set(seen) == set(grid.rows("train").tolist())
    rounds = steps / (48 // batch), steps / (48 // batch + 1)
    assert all(min(abs(n - r) for r in rounds) <= 1 for n in seen.values())


def test_each_epoch_has_an_order_of_its_own(grid: Grid, emulator: Emulator) -> None:
    batches = Batches(grid, emulator, Recipe(batch=8, pixels=1))
    epochs = [[tuple(rows_of(grid, emulator, batches(6 * epoch + step))) for step in range(6)]
              for epoch in range(3)]
    assert not set(epochs[0]) & set(epochs[1])
    assert not set(epochs[1]) & set(epochs[2])


def test_validation_and_test_spectra_are_never_in_a_batch(grid: Grid, emulator: Emulator) -> None:
    grid.split[5:10] = 2
    batches = Batches(grid, emulator, Recipe(batch=7, pixels=10**6))
    seen = {row for step in range(60) for row in rows_of(grid, emulator, batches(step))}
    assert seen == set(grid.rows("train").tolist())


def test_a_batch_pairs_each_flux_with_its_wavelength_and_weight(
    grid: Grid, emulator: Emulator
) -> None:
    grid.weight = np.random.default_rng(0).random(200)
    batch = Batches(grid, emulator, Recipe(batch=5, pixels=30))(3)
    assert batch.wavelength.dtype == torch.float64
    assert [x.shape for x in (batch.wavelength, batch.flux, batch.weight)] == [(5, 30)] * 3
    whole = grid.flux(np.arange(60))
    for i, row in enumerate(rows_of(grid, emulator, batch)):
        pixels = np.searchsorted(grid.wavelength, batch.wavelength[i].numpy())
        assert np.array_equal(batch.wavelength[i].numpy(), grid.wavelength[pixels])
        assert np.array_equal(batch.flux[i].numpy(), whole[row, pixels])
        assert np.array_equal(batch.weight[i].numpy(), grid.weight[pixels].astype(np.float32))
    assert len({w.numpy().tobytes() for w in batch.wavelength}) == 5  # each its own pixels


def test_pixels_are_drawn_evenly(grid: Grid, emulator: Emulator) -> None:
    batches = Batches(grid, emulator, Recipe(batch=8, pixels=50))
    drawn = np.concatenate([batches(step).wavelength.numpy().ravel() for step in range(100)])
    counts = np.bincount(np.searchsorted(grid.wavelength, drawn), minlength=200)
    assert counts.sum() == 8 * 50 * 100
    # 200 of each, Poisson: the chi squared of 199 degrees of freedom is within 5 sigma
    assert abs(np.sum((counts - 200.0) ** 2 / 200.0) - 199.0) < 5 * np.sqrt(2 * 199)


def test_networks_of_whole_spectra_get_them_whole(grid: Grid) -> None:
    network = build("mlp", 4, torch.as_tensor(grid.wavelength), hidden=4)
    emulator = Emulator(network, grid.label_set, grid.domain, grid.wavelength, "air")
    batch = Batches(grid, emulator, Recipe(batch=6, pixels=3))(2)
    assert np.array_equal(batch.wavelength.numpy(), grid.wavelength)
    assert np.array_equal(batch.flux.numpy(), grid.flux(np.array(rows_of(grid, emulator, batch))))
    assert batch.weight.shape == (200,)


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_the_parts_of_a_batch_make_it_up(grid: Grid, kind: str) -> None:
    network = build(kind, 4, torch.as_tensor(grid.wavelength))
    emulator = Emulator(network, grid.label_set, grid.domain, grid.wavelength, "air")
    batch = Batches(grid, emulator, Recipe(batch=12, pixels=9, accumulate=3))(0)
    parts = list(batch.parts(3))
    assert [len(part.labels) for part in parts] == [4, 4, 4]
    for name in ("labels", "wavelength", "flux", "weight"):
        whole, pieces = getattr(batch, name), [getattr(part, name) for part in parts]
        if whole.ndim == 1:  # what all spectra share
            assert all(torch.equal(piece, whole) for piece in pieces)
        else:
            assert torch.equal(torch.cat(pieces), whole)


def test_a_batch_is_no_larger_than_the_grid(grid: Grid, emulator: Emulator) -> None:
    batches = Batches(grid, emulator, Recipe(batch=1000, pixels=2))
    assert sorted(rows_of(grid, emulator, batches(0))) == grid.rows("train").tolist()


@pytest.mark.parametrize(("batch", "accumulate", "world", "sentence"), [
    (9, 1, 2, "a batch of 9 spectra cannot be shared by 2 processes in 1 parts each: make batch a "
              "multiple of 2"),
    (8, 4, 3, "a batch of 8 spectra cannot be shared by 3 processes in 4 parts each: make batch a "
              "multiple of 12"),
    (100, 5, 1, "the 48 training spectra, fewer than batch = 100, cannot be shared by 1 processes "
                "in 5 parts each: make batch a multiple of 5, at most 48"),
    (100, 100, 1, "in 100 parts each: accumulate less, or take fewer processes"),
])
def test_a_batch_that_cannot_be_shared_is_refused(
    grid: Grid, emulator: Emulator, batch: int, accumulate: int, world: int, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Batches(grid, emulator, Recipe(batch=batch, accumulate=accumulate), world=world)
