"""Training: it learns, it repeats itself, and a killed run goes on as if nothing had been."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from emulators import Emulator, Grid, LabelSet, Recipe, evaluate, load, train

Settings = dict[str, Any]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums over several threads need not come out bit for bit the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def short(small: dict[str, int]) -> Settings:
    """A run of 20 steps that validates and checkpoints on the way."""
    return {"steps": 20, "batch": 8, "pixels": 32, "warmup": 5, "validate_every": 10,
            "checkpoint_every": 5, "options": small, "progress": False}


def weights(emulator: Emulator) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in emulator.network.state_dict().items()}


def same(one: Emulator, other: Emulator) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def mae_of_the_mean_spectrum(grid: Grid) -> float:
    mean = grid.flux(grid.rows("train")).mean(axis=0)
    return float(np.abs(grid.flux(grid.rows("validation")) - mean).mean())


def test_a_transformer_learns_the_lines(grid: Grid, small: dict[str, int]) -> None:
    emulator = train(grid, steps=400, batch=16, pixels=64, warmup=30, learning_rate=5e-3,
                     options=small, validate_every=400, progress=False)
    assert emulator.metrics == evaluate(emulator, grid)
    assert emulator.metrics["mae"] < 0.3 * mae_of_the_mean_spectrum(grid)


def test_an_mlp_learns_the_lines(grid: Grid) -> None:
    emulator = train(grid, network="mlp", steps=300, batch=16, warmup=30, options={"hidden": 50},
                     validate_every=300, progress=False)
    assert emulator.metrics["mae"] < 0.5 * mae_of_the_mean_spectrum(grid)


def test_the_same_seed_gives_the_same_weights(grid: Grid, short: Settings) -> None:
    assert same(train(grid, **short), train(grid, **short))
    assert not same(train(grid, **short), train(grid, **short, seed=1))


def test_reading_lazily_changes_nothing(grid_path: Path, short: Settings) -> None:
    assert same(train(Grid(grid_path, memory=0), **short), train(grid_path, **short))


KILLED = """
import json, os, signal, sys
import torch
import emulators, emulators.run

torch.set_num_threads(1)
grid, out, where, count, settings = sys.argv[1:]
owner, name = {"step": (torch.optim.AdamW, "step"),
               "write": (emulators.run, "write_json")}[where]
original, calls = getattr(owner, name), []

def deadly(*args, **kwargs):
    calls.append(0)
    if len(calls) == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)

setattr(owner, name, deadly)
emulators.train(grid, out=out, **json.loads(settings))
"""


@pytest.mark.parametrize(("where", "count"), [
    ("step", 4),    # before anything was kept
    ("step", 14),   # after one validation and two checkpoints
    ("write", 3),   # the weights of the third checkpoint are written, last.json is not
])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    grid_path: Path, tmp_path: Path, short: Settings, where: str, count: int
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, grid_path, tmp_path / "killed", where, str(count),
         json.dumps(short)],
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL
    resumed = train(grid_path, out=tmp_path / "killed", resume=True, **short)
    straight = train(grid_path, out=tmp_path / "straight", **short)
    assert same(resumed, straight)
    assert resumed.metrics == straight.metrics
    assert [r["step"] for r in log_of(tmp_path / "killed")] == ["10", "20"]


def log_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_finished_run_resumed_is_the_same_emulator(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    first = train(grid, out=tmp_path, **short)
    before = weights(first)
    again = train(grid, out=tmp_path, resume=True, **short)
    assert all(np.array_equal(v, before[k]) for k, v in weights(again).items())
    assert again.sha256 == first.sha256


def test_a_run_leaves_a_log_with_the_measures(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    emulator = train(grid, out=tmp_path, **short)
    rows = log_of(tmp_path)
    assert list(rows[0]) == ["step", "rate", "loss", "seconds_per_step",
                             "mse", "mae", "maxae", "mare", "qae95", "qmae95"]
    best = min(rows, key=lambda row: float(row["mse"]))
    assert {k: float(best[k]) for k in emulator.metrics} == emulator.metrics


def test_the_best_state_is_kept_not_the_last(
    grid: Grid, tmp_path: Path, short: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, states = iter([0.3, 0.1, 0.5]), []

    def score(emulator: Emulator, _: Grid) -> dict[str, float]:
        states.append({k: v.copy() for k, v in weights(emulator).items()})
        return {"mse": next(scores)}

    monkeypatch.setattr("emulators.training.evaluate", score)
    emulator = train(grid, out=tmp_path, **{**short, "steps": 30})
    assert emulator.metrics == {"mse": 0.1}
    assert same(emulator, load(tmp_path / "best"))
    assert all(np.array_equal(v, states[1][k]) for k, v in weights(emulator).items())


def test_the_saved_emulator_says_how_it_was_trained(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    train(grid, out=tmp_path / "base", **short)
    base = load(tmp_path / "base" / "best")
    tuned = train(grid, init=base, out=tmp_path / "tuned", **short, seed=5)
    again = load(tmp_path / "tuned" / "best")
    assert again.provenance["recipe"]["seed"] == 5
    assert again.provenance["trained_on"]["made_by"] == {"code": "twelve lines"}
    assert again.provenance["init"]["sha256"] == base.sha256
    assert again.metrics == tuned.metrics == evaluate(again, grid)


def test_fine_tuning_starts_from_init(grid: Grid, short: Settings) -> None:
    base = train(grid, **{**short, "steps": 60}, learning_rate=5e-3)
    before = weights(base)
    error = evaluate(base, grid)["mae"]
    tuned = train(grid, init=base, **{**short, "steps": 1}, learning_rate=1e-12)
    assert tuned.metrics["mae"] == pytest.approx(error, rel=1e-4)
    train(grid, init=base, **short)
    assert all(np.array_equal(v, before[k]) for k, v in weights(base).items())


def test_fine_tuning_keeps_the_scale_of_init(
    grid: Grid, write_grid: Callable[..., Path], short: Settings
) -> None:
    other = Grid(write_grid(n_spec=20, seed=9))
    scale = LabelSet.spanning(grid.label_set, other.label_set)
    base = train(grid, labels=scale, **short)
    assert train(other, init=base, **short).labels == base.labels == scale


def test_bf16_trains_float32_weights(grid: Grid, small: dict[str, int]) -> None:
    emulator = train(grid, precision="bf16", steps=150, batch=16, pixels=64, warmup=30,
                     learning_rate=5e-3, options=small, validate_every=150, progress=False)
    assert emulator.dtype == torch.float32
    assert emulator.metrics["mae"] < 0.7 * mae_of_the_mean_spectrum(grid)


def test_a_grid_without_validation_keeps_the_last_state(
    write_grid: Callable[..., Path], tmp_path: Path, short: Settings
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        file["split"][:] = 0
    emulator = train(path, out=tmp_path / "run", **short)
    assert emulator.metrics == {}
    assert same(load(tmp_path / "run" / "best"), emulator)
    assert same(train(path, out=tmp_path / "run", resume=True, **short), emulator)


def test_a_spectrum_that_is_not_finite_ends_training_with_a_sentence(
    write_grid: Callable[..., Path], tmp_path: Path, short: Settings
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        flux = np.ones((60, 200), np.float32)
        flux[::3] = np.nan
        del file["flux"]
        file["flux"] = flux
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1: lower learning_rate"):
        train(path, out=tmp_path / "run", **{**short, "validate_every": 20})
    assert not (tmp_path / "run" / "last.json").exists()
    assert not (tmp_path / "run" / "best").exists()


def test_an_existing_run_is_not_overwritten(grid: Grid, tmp_path: Path, short: Settings) -> None:
    train(grid, out=tmp_path, **short)
    before = (tmp_path / "last.json").read_bytes()
    with pytest.raises(ValueError, match="holds a run already: pass resume=True"):
        train(grid, out=tmp_path, **short)
    assert (tmp_path / "last.json").read_bytes() == before


def test_a_run_is_resumed_with_its_own_recipe_and_network_only(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    train(grid, out=tmp_path, **short)
    with pytest.raises(ValueError, match="begun with another recipe"):
        train(grid, out=tmp_path, resume=True, **{**short, "steps": 40})
    with pytest.raises(ValueError, match="begun with another network"):
        train(grid, out=tmp_path, resume=True, **{**short, "options": {"dim": 8, "heads": 2}})


def test_a_damaged_checkpoint_is_refused(grid: Grid, tmp_path: Path, short: Settings) -> None:
    train(grid, out=tmp_path, **short)
    path = tmp_path / json.loads((tmp_path / "last.json").read_text())["weights"]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="is damaged"):
        train(grid, out=tmp_path, resume=True, **short)


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"epochs": 3}, "unknown setting 'epochs'; valid: steps, batch, pixels"),
    ({"step": 3}, r"unknown setting 'step' \(did you mean steps\?\)"),
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"precision": "half"}, "unknown precision 'half'; valid: float32, bf16"),
    ({"network": "forest"}, "unknown network 'forest'; valid: transformer, mlp"),
    ({"options": {"width": 3}}, "transformer: .*unexpected keyword argument 'width'"),
])
def test_what_cannot_be_trained_is_refused(
    grid: Grid, settings: Settings, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(grid, **settings)


def test_init_must_suit_the_grid(
    grid: Grid, emulator: Emulator, write_grid: Callable[..., Path], short: Settings
) -> None:
    vacuum, renamed, shorter = write_grid("v.h5"), write_grid("r.h5"), write_grid("s.h5", n_pix=150)
    with h5py.File(vacuum, "r+") as file:
        file["wavelength"].attrs["medium"] = "vacuum"
    with h5py.File(renamed, "r+") as file:
        file["labels"].attrs["names"] = ["teff", "logg", "fe_h", "ca_h"]
    with pytest.raises(ValueError, match="is in vacuum, but init 'small' is in air"):
        train(vacuum, init=emulator)
    with pytest.raises(ValueError, match="labels of the grid and of init differ: ca_h, mg_h"):
        train(renamed, init=emulator)
    mlp = train(grid, network="mlp", **{**short, "options": {"hidden": 8}})
    with pytest.raises(ValueError, match="cannot start on the 150 pixels"):
        train(shorter, init=mlp)


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    recipe = Recipe(steps=100, warmup=10, learning_rate=1.0)
    rates = np.array([recipe.rate(step) for step in range(101)])
    assert rates[9] == rates[10] == 1.0
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[100] == pytest.approx(0.0, abs=1e-15)


def test_progress_goes_to_the_log_not_to_the_terminal(
    grid: Grid, short: Settings, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="emulators"):
        train(grid, **short)
    assert sum("'mae'" in message for message in caplog.messages) == 2
    assert capsys.readouterr() == ("", "")


def test_a_run_is_not_gone_on_with_on_another_scale_or_grid(
    grid: Grid, grid_path: Path, tmp_path: Path, short: Settings
) -> None:
    train(grid, out=tmp_path / "run", **short)
    wider = LabelSet(grid.label_set.names, grid.label_set.units,
                     tuple(x - 1.0 for x in grid.label_set.low), grid.label_set.high)
    with pytest.raises(ValueError, match="begun with another labels"):
        train(grid, out=tmp_path / "run", resume=True, labels=wider, **short)
    other = tmp_path / "other.h5"
    other.write_bytes(grid_path.read_bytes())
    import h5py

    with h5py.File(other, "r+") as file:
        file["flux"][0] = file["flux"][1]
    with pytest.raises(ValueError, match="begun with another grid"):
        train(other, out=tmp_path / "run", resume=True, **short)
