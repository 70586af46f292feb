"""A killed run goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
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

from emulators import Emulator, Grid, LabelSet, load, measure_errors, train

Settings = dict[str, Any]
Same = Callable[[Emulator, Emulator], bool]
Log = Callable[[Path], list[dict[str, str]]]


def _scores(monkeypatch: pytest.MonkeyPatch, *mse: float) -> None:
    """Let the validations find these errors, one after the other."""
    values = iter(mse)
    monkeypatch.setattr("emulators.training.evaluate", lambda *_: {"mse": next(values)})


def weights(emulator: Emulator) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in emulator.network.state_dict().items()}


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


def test_a_run_is_resumed_with_its_own_recipe_and_network_only(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    train(grid, out=tmp_path, **short)
    with pytest.raises(ValueError, match="begun with another recipe"):
        train(grid, out=tmp_path, resume=True, **{**short, "steps": 40})
    with pytest.raises(ValueError, match="begun with another network"):
        train(grid, out=tmp_path, resume=True, **{**short, "options": {"dim": 8, "heads": 2}})


def test_a_run_that_lost_its_best_state_is_not_gone_on_with(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    train(grid, out=tmp_path, **short)
    shutil.rmtree(tmp_path / "best")
    with pytest.raises(FileNotFoundError, match="best', the best state so far, is gone: put it"):
        train(grid, out=tmp_path, resume=True, **short)


def test_a_damaged_checkpoint_is_refused(grid: Grid, tmp_path: Path, short: Settings) -> None:
    train(grid, out=tmp_path, **short)
    path = tmp_path / json.loads((tmp_path / "last.json").read_text())["weights"]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="is damaged"):
        train(grid, out=tmp_path, resume=True, **short)


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


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_every_network_of_fixed_pixels_can_be_gone_on_with(
    grid: Grid, tmp_path: Path, short: Settings, network: str, same: Same
) -> None:
    settings = {**short, "network": network, "options": {"hidden": 8}}
    first = train(grid, out=tmp_path, **settings)
    assert same(train(grid, out=tmp_path, resume=True, **settings), first)
