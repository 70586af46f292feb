"""Training: it learns, it repeats itself, and a killed run goes on as if nothing had been."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from emulators import Emulator, Grid, LabelSet, Recipe, evaluate, load, measure_errors, train
from emulators.batches import Batch
from emulators.objective import Objective

Settings = dict[str, Any]
Same = Callable[[Emulator, Emulator], bool]
Log = Callable[[Path], list[dict[str, str]]]


def weights(emulator: Emulator) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in emulator.network.state_dict().items()}


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


def test_the_same_seed_gives_the_same_weights(grid: Grid, short: Settings, same: Same) -> None:
    assert same(train(grid, **short), train(grid, **short))
    assert not same(train(grid, **short), train(grid, **short, seed=1))


def test_reading_lazily_changes_nothing(grid_path: Path, short: Settings, same: Same) -> None:
    assert same(train(Grid(grid_path, memory=0), **short), train(grid_path, **short))


KILLED = """
import json, os, signal, sys
import torch
import emulators, emulators.run, emulators.storage

torch.set_num_threads(1)
grid, out, where, count, settings = sys.argv[1:]
owner, name = {"step": (torch.optim.AdamW, "step"), "write": (emulators.run, "write_json"),
               "adapter": (emulators.storage, "write_json")}[where]
original, calls = getattr(owner, name), []

def deadly(*args, **kwargs):
    calls.append(0)
    if len(calls) == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)

setattr(owner, name, deadly)
emulators.train(grid, out=out, **json.loads(settings))
"""
# A path through the code that touches everything a checkpoint has to bring back.
EVERYTHING = {
    "optimiser": "muon", "ema": 0.9, "accumulate": 2, "precision": "bf16", "emphasis": 1.0,
    "mode": "lora", "lora": {"rank": 2, "dropout": 0.3, "unfreeze": ["head.*", "*norm*"]},
}


def killed(grid: Path, out: Path, where: str, count: int, settings: Settings) -> int:
    """Train in another process that kills itself at the n-th of some events."""
    return subprocess.run(
        [sys.executable, "-c", KILLED, grid, out, where, str(count), json.dumps(settings)],
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ).returncode


@pytest.mark.parametrize(("where", "count"), [
    ("step", 4),    # before anything was kept
    ("step", 14),   # after one validation and two checkpoints
    ("write", 3),   # the weights of the third checkpoint are written, last.json is not
])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    grid_path: Path, tmp_path: Path, short: Settings, where: str, count: int, same: Same,
    log_of: Log,
) -> None:
    assert killed(grid_path, tmp_path / "killed", where, count, short) == -signal.SIGKILL
    resumed = train(grid_path, out=tmp_path / "killed", resume=True, **short)
    straight = train(grid_path, out=tmp_path / "straight", **short)
    assert same(resumed, straight)
    assert resumed.metrics == straight.metrics
    assert [r["step"] for r in log_of(tmp_path / "killed")] == ["10", "20"]


@pytest.mark.parametrize(("where", "count"), [
    ("step", 14), ("write", 3),
    ("adapter", 2),  # the second best is kept, its adapters are not
])
def test_a_killed_run_of_every_feature_is_gone_on_with_bit_for_bit(
    grid_path: Path, tmp_path: Path, short: Settings, further: Settings, where: str, count: int,
    same: Same, log_of: Log,
) -> None:
    base = train(grid_path, out=tmp_path / "base", **short)
    settings = {**further, **EVERYTHING, "init": str(tmp_path / "base" / "best")}
    assert killed(grid_path, tmp_path / "killed", where, count, settings) == -signal.SIGKILL
    resumed = train(grid_path, out=tmp_path / "killed", resume=True, **settings)
    straight = train(grid_path, out=tmp_path / "straight", **settings)
    assert same(resumed, straight)
    assert not same(straight, base)
    assert resumed.metrics == straight.metrics
    logs = [[(r["step"], r["mse"], r["mae"]) for r in log_of(tmp_path / run)]
            for run in ("killed", "straight")]
    assert logs[0] == logs[1]
    adapters = [sorted((tmp_path / run / "adapter").iterdir()) for run in ("killed", "straight")]
    for one, other in zip(*adapters, strict=True):
        assert one.read_bytes() == other.read_bytes()


FULL_DISK = """
import resource, sys
from pathlib import Path
import emulators.run
from emulators.cli import main

write, limits = emulators.run.write_json, []

def fill(path, content):
    # A checkpoint holds the moments of the optimisers too: an emulator still fits the disk.
    size = (Path(path).parent / content["weights"]).stat().st_size
    write(path, content)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))

emulators.run.write_json = fill
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on files are those of Unix")
def test_a_full_disk_leaves_the_checkpoint_before_whole(
    grid_path: Path, tmp_path: Path, short: Settings, same: Same
) -> None:
    words = [w for k in ("steps", "batch") for w in (f"--{k}", str(short[k]))]
    words += [w for k in ("pixels", "warmup", "validate_every", "checkpoint_every")
              for w in ("--set", f"{k}={short[k]}")]
    words += [w for k, v in short["options"].items() for w in ("--option", f"{k}={v}")]
    answer = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "train", grid_path, "-o", tmp_path / "full", *words],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert answer.returncode == 1, answer.stderr
    sentence = answer.stderr.splitlines()[-1]
    assert sentence.startswith("Error: no checkpoint of step 10 could be written: ")
    assert "File too large" in sentence
    assert sentence.endswith(
        "the checkpoint in 'last-0.safetensors' is whole; make room and resume")
    assert json.loads((tmp_path / "full" / "last.json").read_text())["step"] == 5
    assert not [p for p in (tmp_path / "full").rglob("*") if p.name.startswith(".")]
    resumed = train(grid_path, out=tmp_path / "full", resume=True, **short)
    straight = train(grid_path, out=tmp_path / "straight", **short)
    assert same(resumed, straight)
    assert resumed.metrics == straight.metrics


def test_a_finished_run_resumed_is_the_same_emulator(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    first = train(grid, out=tmp_path, **short)
    before = weights(first)
    again = train(grid, out=tmp_path, resume=True, **short)
    assert all(np.array_equal(v, before[k]) for k, v in weights(again).items())
    assert again.sha256 == first.sha256


def test_what_was_measured_of_a_finished_run_stays_with_it(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    emulator = train(grid, out=tmp_path, **short)
    emulator.card, emulator.errors = {"n_spectra": 12}, measure_errors(emulator, grid)
    emulator.save(tmp_path / "best")
    again = train(grid, out=tmp_path, resume=True, **short)
    for one in (again, load(tmp_path / "best")):
        assert one.card == {"n_spectra": 12}
        assert one.errors is not None
        assert torch.equal(one.errors.errors, load(tmp_path / "best").errors.errors)
        assert one.sha256 == emulator.sha256


def test_a_better_state_does_not_inherit_the_errors_of_the_one_before(
    grid: Grid, tmp_path: Path, short: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emulators.training._step", _interrupted_at(15))
    with pytest.raises(KeyboardInterrupt):
        train(grid, out=tmp_path, **short)
    monkeypatch.undo()
    first = load(tmp_path / "best")
    first.errors = measure_errors(first, grid)
    first.save(tmp_path / "best")
    again = train(grid, out=tmp_path, resume=True, **short)
    assert again.sha256 != first.sha256
    assert load(tmp_path / "best").errors is None


def _interrupted_at(step: int) -> Callable[..., float]:
    from emulators.training import _step

    def take(*arguments: Any) -> float:
        if arguments[3] == step:
            raise KeyboardInterrupt
        return _step(*arguments)
    return take


def test_a_run_that_stopped_early_is_finished(
    grid: Grid, tmp_path: Path, short: Settings, same: Same, log_of: Log
) -> None:
    # rates that lead away from where it begins, so that no validation is better than the first
    hopeless = {**short, "steps": 400, "validate_every": 5, "checkpoint_every": 1_000,
                "warmup": 0, "patience": 2, "learning_rate": 0.5, "matrix_rate": 0.9}
    emulator = train(grid, out=tmp_path, **hopeless)
    steps = [int(row["step"]) for row in log_of(tmp_path)]
    assert steps[-1] < 400
    assert same(train(grid, out=tmp_path, resume=True, **hopeless), emulator)
    assert [int(row["step"]) for row in log_of(tmp_path)] == steps
    for change in ({"resume": True, "seed": 5}, {"seed": 9}):
        with pytest.raises(ValueError, match=r"begun with another recipe|holds a run already"):
            train(grid, out=tmp_path, **{**hopeless, **change})
    assert load(tmp_path / "best").sha256 == emulator.sha256


def test_an_emulator_without_a_run_is_not_written_over(
    grid: Grid, emulator: Emulator, tmp_path: Path, short: Settings
) -> None:
    emulator.save(tmp_path / "best")
    with pytest.raises(ValueError, match="holds an emulator, but there is no checkpoint"):
        train(grid, out=tmp_path, **short)
    assert load(tmp_path / "best").sha256 == emulator.sha256


def test_warming_up_takes_no_more_than_half_of_a_short_run() -> None:
    rates = [Recipe(steps=50, warmup=300).schedule(step) for step in range(50)]
    assert max(rates) == rates[24] == 1.0
    assert rates[-1] < 0.01


def test_a_run_whose_log_was_emptied_goes_on(
    grid: Grid, tmp_path: Path, short: Settings, log_of: Log
) -> None:
    train(grid, out=tmp_path, **short)
    (tmp_path / "log.csv").write_text("")
    assert train(grid, out=tmp_path, resume=True, **short).metrics


@pytest.mark.parametrize(("change", "sentence"), [
    ({"steps": 30}, r"another recipe \(steps = 20, now 30\); resume with the same, or begin in"),
    ({"seed": 2, "batch": 4}, r"another recipe \(batch = 8, now 4, seed = 0, now 2\)"),
])
def test_a_run_that_was_begun_otherwise_says_how(
    grid: Grid, tmp_path: Path, short: Settings, change: Settings, sentence: str
) -> None:
    train(grid, out=tmp_path, **short)
    with pytest.raises(ValueError, match=sentence):
        train(grid, out=tmp_path, resume=True, **{**short, **change})


@pytest.mark.parametrize("given", [
    {"network": "mlp"}, {"options": {"dim": 8}}, {"network": "cnn", "options": {"nonsense": 3}},
])
def test_what_init_brings_cannot_be_given_too(
    grid: Grid, emulator: Emulator, further: Settings, given: Settings
) -> None:
    words = ", ".join(given)
    with pytest.raises(ValueError, match=f"init 'small' brings its own {words}: leave out"):
        train(grid, init=emulator, **further, **given)


def test_a_device_that_is_not_there_is_named(grid: Grid, short: Settings) -> None:
    with pytest.raises(ValueError, match="device 'cuda:77' cannot be used here"):
        train(grid, device="cuda:77", **short)


@pytest.mark.parametrize(("setting", "sentence"), [
    ({"clip": 0.0}, "clip must be positive, got 0.0"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
])
def test_settings_that_would_train_away_from_the_data_are_refused(
    setting: Settings, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Recipe(**setting)


def test_a_run_leaves_a_log_with_the_measures(
    grid: Grid, tmp_path: Path, short: Settings, log_of: Log
) -> None:
    emulator = train(grid, out=tmp_path, **short)
    rows = log_of(tmp_path)
    assert list(rows[0]) == ["step", "rate", "matrix_rate", "loss", "seconds_per_step", "mse",
                             "mae", "maxae", "mare", "qae95", "qmae95"]
    best = min(rows, key=lambda row: float(row["mse"]))
    assert {k: float(best[k]) for k in emulator.metrics} == emulator.metrics


def test_the_best_state_is_kept_not_the_last(
    grid: Grid, tmp_path: Path, short: Settings, monkeypatch: pytest.MonkeyPatch, same: Same
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
    grid: Grid, tmp_path: Path, short: Settings, further: Settings
) -> None:
    train(grid, out=tmp_path / "base", **short)
    base = load(tmp_path / "base" / "best")
    tuned = train(grid, init=base, out=tmp_path / "tuned", **further, seed=5)
    again = load(tmp_path / "tuned" / "best")
    assert again.provenance["recipe"]["seed"] == 5
    assert again.provenance["trained_on"]["made_by"] == {"code": "twelve lines"}
    assert again.provenance["init"]["sha256"] == base.sha256
    assert again.metrics == tuned.metrics == evaluate(again, grid)


def test_fine_tuning_starts_from_init(grid: Grid, short: Settings, further: Settings) -> None:
    base = train(grid, **{**short, "steps": 60}, learning_rate=5e-3)
    before = weights(base)
    error = evaluate(base, grid)["mae"]
    tuned = train(grid, init=base, **{**further, "steps": 1}, learning_rate=1e-12,
                  matrix_rate=1e-12)
    assert tuned.metrics["mae"] == pytest.approx(error, rel=1e-4)
    train(grid, init=base, **further)
    assert all(np.array_equal(v, before[k]) for k, v in weights(base).items())


def test_fine_tuning_keeps_the_scale_of_init(
    grid: Grid, write_grid: Callable[..., Path], short: Settings, further: Settings
) -> None:
    other = Grid(write_grid(n_spec=20, seed=9))
    scale = LabelSet.spanning(grid.label_set, other.label_set)
    base = train(grid, labels=scale, **short)
    assert train(other, init=base, **further).labels == base.labels == scale


def test_bf16_trains_float32_weights(grid: Grid, small: dict[str, int]) -> None:
    emulator = train(grid, precision="bf16", steps=150, batch=16, pixels=64, warmup=30,
                     learning_rate=5e-3, options=small, validate_every=150, progress=False)
    assert emulator.dtype == torch.float32
    assert emulator.metrics["mae"] < 0.7 * mae_of_the_mean_spectrum(grid)


def test_a_grid_without_validation_keeps_the_last_state(
    write_grid: Callable[..., Path], tmp_path: Path, short: Settings, same: Same
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        file["split"][:] = 0
    emulator = train(path, out=tmp_path / "run", **short)
    assert emulator.metrics == {}
    assert same(load(tmp_path / "run" / "best"), emulator)
    assert same(train(path, out=tmp_path / "run", resume=True, **short), emulator)


def _with_gaps(path: Path) -> np.ndarray:
    """Take some pixels and whole spectra, of training and validation, out of a grid."""
    flux = Grid(path).flux(np.arange(60))
    flux[np.random.default_rng(2).random(flux.shape) < 0.1] = np.nan
    flux[[3, 9]] = np.nan
    with h5py.File(path, "r+") as file:
        del file["flux"]
        file["flux"] = flux
    return flux


def test_a_grid_with_gaps_is_learnt_from_where_it_has_fluxes(
    write_grid: Callable[..., Path], small: dict[str, int]
) -> None:
    path = write_grid()
    flux = _with_gaps(path)
    emulator = train(path, steps=400, batch=16, pixels=64, warmup=30, options=small,
                     validate_every=400, progress=False)
    rows = np.arange(4, 60, 5)
    with torch.no_grad():
        emulated = emulator.flux(torch.as_tensor(Grid(path).labels[rows]),
                                 torch.as_tensor(Grid(path).wavelength)).numpy()
    error = np.abs(emulated - flux[rows].astype(np.float64))
    known = np.isfinite(error)
    assert 0.7 < known.mean() < 0.95
    assert emulator.metrics["mse"] == pytest.approx(np.mean(error[known] ** 2), rel=1e-6)
    assert emulator.metrics["mae"] == pytest.approx(np.mean(error[known]), rel=1e-6)
    assert emulator.metrics["qae95"] == pytest.approx(np.quantile(error[known], 0.95), rel=1e-6)
    largest = [e[k].max() for e, k in zip(error, known, strict=True) if k.any()]
    assert len(largest) == 11
    assert emulator.metrics["maxae"] == pytest.approx(np.mean(largest), rel=1e-6)
    mean = np.nanmean(flux[Grid(path).rows("train")], axis=0)
    assert emulator.metrics["mae"] < 0.3 * np.nanmean(np.abs(flux[rows] - mean))


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
@pytest.mark.parametrize("rate", [1e3, 1e10])
def test_a_loss_that_blows_up_ends_training_with_a_sentence(
    grid: Grid, tmp_path: Path, short: Settings, rate: float, optimiser: str
) -> None:
    settings = {**short, "warmup": 0, "validate_every": 20, "checkpoint_every": 20}
    sentence = r"the loss is (nan|inf) at step \d+: lower learning_rate \(now 1(000|e\+10)\)"
    with pytest.raises(FloatingPointError, match=sentence):
        train(grid, out=tmp_path / "run", learning_rate=rate, matrix_rate=rate,
              optimiser=optimiser, **settings)
    assert not (tmp_path / "run" / "last.json").exists()
    assert not (tmp_path / "run" / "best").exists()


def test_weights_that_a_bad_gradient_spoilt_are_never_kept(
    grid: Grid, tmp_path: Path, short: Settings, same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(grid, **short)
    settings, calls, loss_of = {**short, "checkpoint_every": 1}, [], Objective.forward

    def forward(self: Objective, batch: Batch) -> torch.Tensor:
        calls.append(0)
        zero = torch.sqrt(0.0 * self.network.head[2].bias.sum())  # whose slope is no number
        return loss_of(self, batch) + (zero if len(calls) == 8 else 0.0)

    monkeypatch.setattr(Objective, "forward", forward)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 8"):
        train(grid, out=tmp_path, **settings)
    assert json.loads((tmp_path / "last.json").read_text())["step"] == 7
    assert same(train(grid, out=tmp_path, resume=True, **settings), straight)


def test_an_emulator_that_gives_no_numbers_is_never_kept(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    settings = {**short, "warmup": 0, "validate_every": 1, "checkpoint_every": 1}
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train(grid, out=tmp_path, learning_rate=1e25, matrix_rate=1e25, **settings)
    assert not (tmp_path / "last.json").exists()
    assert not (tmp_path / "best").exists()


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
    ({"optimiser": "sgd"}, "unknown optimiser 'sgd'; valid: muon, adamw"),
    ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
    ({"emphasis": -1.0}, "emphasis must be at least 0, got -1.0"),
    ({"batch": 10, "accumulate": 4}, "batch must be a multiple of accumulate, got 10 and 4"),
    ({"mode": "half"}, "unknown mode 'half'; valid: full, lora"),
    ({"network": "forest"}, "unknown network 'forest'; valid: transformer, mlp, cnn, cannon"),
    ({"options": {"width": 3}}, "unknown option of transformer 'width'; valid: dim"),
])
def test_what_cannot_be_trained_is_refused(
    grid: Grid, settings: Settings, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(grid, **settings)


def test_init_must_suit_the_grid(
    grid: Grid, emulator: Emulator, write_grid: Callable[..., Path], short: Settings
) -> None:
    vacuum, shorter = write_grid("v.h5"), write_grid("s.h5", n_pix=150)
    with h5py.File(vacuum, "r+") as file:
        file["wavelength"].attrs["medium"] = "vacuum"
    with pytest.raises(ValueError, match="is in vacuum, but init 'small' is in air"):
        train(vacuum, init=emulator)
    mlp = train(grid, network="mlp", **{**short, "options": {"hidden": 8}})
    with pytest.raises(ValueError, match="cannot start on the 150 pixels"):
        train(shorter, init=mlp)


def test_the_rates_warm_up_to_their_peaks_and_fall_to_zero() -> None:
    recipe = Recipe(steps=100, warmup=10, learning_rate=3.0, matrix_rate=5.0)
    rates = np.array([recipe.schedule(step) for step in range(101)])
    assert rates[9] == rates[10] == 1.0
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[100] == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_each_optimiser_follows_the_schedule_at_its_own_peak(
    grid: Grid, short: Settings, optimiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[float]] = {"AdamW": [], "Muon": []}
    for kind, rates in seen.items():
        cls = getattr(torch.optim, kind)

        def step(self: Any, rates: list[float] = rates, take: Any = cls.step) -> Any:
            rates.extend(group["lr"] for group in self.param_groups)
            return take(self)

        monkeypatch.setattr(cls, "step", step)
    train(grid, **short, optimiser=optimiser, learning_rate=3e-3, matrix_rate=5e-3)
    schedule = np.array([Recipe(steps=20, warmup=5).schedule(step) for step in range(20)])
    assert seen["AdamW"] == pytest.approx(3e-3 * schedule)
    assert seen["Muon"] == pytest.approx(5e-3 * schedule if optimiser == "muon" else [])


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
    with h5py.File(other, "r+") as file:
        file["flux"][0] = file["flux"][1]
    with pytest.raises(ValueError, match="begun with another grid"):
        train(other, out=tmp_path / "run", resume=True, **short)


def _scores(monkeypatch: pytest.MonkeyPatch, *mse: float) -> None:
    """Let the validations find these errors, one after the other."""
    values = iter(mse)
    monkeypatch.setattr("emulators.training.evaluate", lambda *_: {"mse": next(values)})


def test_patience_ends_a_run_that_gets_no_better(
    grid: Grid, tmp_path: Path, short: Settings, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, log_of: Log,
) -> None:
    _scores(monkeypatch, 0.5, 0.3, 0.4, 0.35)  # a fifth would be asked for in vain
    with caplog.at_level(logging.INFO, logger="emulators"):
        emulator = train(grid, out=tmp_path, patience=2, **{**short, "steps": 200})
    assert [row["step"] for row in log_of(tmp_path)] == ["10", "20", "30", "40"]
    assert emulator.metrics == {"mse": 0.3}
    assert "no lower MSE in 2 validations: stopping" in caplog.messages


def test_patience_counts_a_repeated_mse_as_no_progress(
    grid: Grid, tmp_path: Path, short: Settings, monkeypatch: pytest.MonkeyPatch, log_of: Log
) -> None:
    _scores(monkeypatch, *[0.3] * 20)
    train(grid, out=tmp_path, patience=2, **{**short, "steps": 200})
    assert [row["step"] for row in log_of(tmp_path)] == ["10", "20", "30"]


def test_patience_survives_a_kill(
    grid: Grid, tmp_path: Path, short: Settings, monkeypatch: pytest.MonkeyPatch, log_of: Log
) -> None:
    settings = {**short, "steps": 200, "patience": 2}
    _scores(monkeypatch, 0.3, 0.4)
    with pytest.raises(StopIteration):  # a third validation, with the second checkpointed
        train(grid, out=tmp_path, **settings)
    _scores(monkeypatch, 0.5)
    emulator = train(grid, out=tmp_path, resume=True, **settings)
    assert [row["step"] for row in log_of(tmp_path)] == ["10", "20", "30"]
    assert emulator.metrics == {"mse": 0.3}


@pytest.mark.parametrize("split", [0, 1])
def test_a_finished_run_with_averaged_weights_stays_what_it_is(
    write_grid: Callable[..., Path], tmp_path: Path, short: Settings, same: Same, split: int
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        file["split"][:] *= split  # with 0, all are for training
    first = train(path, out=tmp_path / "run", ema=0.9, **short)
    again = train(path, out=tmp_path / "run", ema=0.9, resume=True, **short)
    assert same(first, again)
    assert first.sha256 == again.sha256


def test_the_validated_weights_are_those_that_are_kept(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    emulator = train(grid, out=tmp_path, ema=0.9, **short)
    assert emulator.metrics == evaluate(emulator, grid) == evaluate(load(tmp_path / "best"), grid)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_every_network_of_fixed_pixels_can_be_gone_on_with(
    grid: Grid, tmp_path: Path, short: Settings, network: str, same: Same
) -> None:
    settings = {**short, "network": network, "options": {"hidden": 8}}
    first = train(grid, out=tmp_path, **settings)
    assert same(train(grid, out=tmp_path, resume=True, **settings), first)


def test_tensorboard_that_is_not_installed_is_said_to_be_missing(
    grid: Grid, tmp_path: Path, short: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'stellarfit\[tensorboard\]'"):
        train(grid, out=tmp_path, tensorboard=True, **short)
    with pytest.raises(ValueError, match="tensorboard=True needs out="):
        train(grid, tensorboard=True, **short)
