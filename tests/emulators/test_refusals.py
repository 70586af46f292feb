"""What cannot be trained, or must not be kept, is refused with a sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
import torch

from emulators import Emulator, Grid, LabelSet, Recipe, load, train
from emulators.batches import Batch
from emulators.objective import Objective
from emulators.run import Run

Settings = dict[str, Any]
Same = Callable[[Emulator, Emulator], bool]


def test_an_emulator_without_a_run_is_not_written_over(
    grid: Grid, emulator: Emulator, tmp_path: Path, short: Settings
) -> None:
    emulator.save(tmp_path / "best")
    with pytest.raises(ValueError, match="holds an emulator, but there is no checkpoint"):
        train(grid, out=tmp_path, **short)
    assert load(tmp_path / "best").sha256 == emulator.sha256


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


def test_numbers_of_numpy_are_numbers() -> None:
    recipe = Recipe(steps=np.int64(3), clip=np.float32(0.5), betas=tuple(np.float32([0.5, 0.75])))
    assert recipe == Recipe(steps=3, clip=0.5, betas=(0.5, 0.75))
    assert json.loads(json.dumps(asdict(recipe)))["steps"] == 3
    with pytest.raises(ValueError, match="steps must be a whole number, got True"):
        Recipe(steps=True)


def test_a_scale_in_other_units_is_refused(grid: Grid, short: Settings) -> None:
    own = grid.label_set
    scale = LabelSet(own.names, ("kK", *own.units[1:]), own.low, own.high)
    with pytest.raises(ValueError, match=r"labels= has other units .*: teff in kK \(K in the grid"):
        train(grid, labels=scale, **short)


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
    ({"network": "forest"},
     "unknown network 'forest'; valid: transformer, mlp, cnn, cannon, components"),
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


def test_tensorboard_that_is_not_installed_is_said_to_be_missing(
    grid: Grid, tmp_path: Path, short: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'stellarfit\[tensorboard\]'"):
        train(grid, out=tmp_path, tensorboard=True, **short)
    with pytest.raises(ValueError, match="tensorboard=True needs out="):
        train(grid, tensorboard=True, **short)


def test_a_solution_in_closed_form_is_written_for_tensorboard_too(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Mock()

    @contextmanager
    def on(run: Run) -> Iterator[None]:
        run._board = board
        yield

    monkeypatch.setattr(Run, "tensorboard", on)
    train(grid, network="cannon", out=tmp_path, tensorboard=True, progress=False)
    assert "mae" in {call.args[0] for call in board.add_scalar.call_args_list}
