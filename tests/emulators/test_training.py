"""Training: it learns, it repeats itself, and it keeps the best state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from emulators import Emulator, Grid, LabelSet, Recipe, evaluate, load, train

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


def test_warming_up_takes_no_more_than_half_of_a_short_run() -> None:
    rates = [Recipe(steps=50, warmup=300).schedule(step) for step in range(50)]
    assert max(rates) == rates[24] == 1.0
    assert rates[-1] < 0.01


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


def test_the_validated_weights_are_those_that_are_kept(
    grid: Grid, tmp_path: Path, short: Settings
) -> None:
    emulator = train(grid, out=tmp_path, ema=0.9, **short)
    assert emulator.metrics == evaluate(emulator, grid) == evaluate(load(tmp_path / "best"), grid)
