"""The model card: its numbers are those that a few lines of numpy give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from emulators import Emulator, Grid, card, evaluate, load, measure_errors
from emulators.metrics import emulate
from emulators.model_card import differences, mean_derivatives, roughness


@pytest.fixture
def measured(emulator: Emulator, grid: Grid) -> dict:
    return card(emulator, grid, bins=3)


def test_the_overall_measures_are_those_of_evaluate(
    measured: dict, emulator: Emulator, grid: Grid
) -> None:
    assert measured["overall"] == evaluate(emulator, grid)
    assert measured["n_spectra"] == len(grid.rows("validation"))


def test_bins_hold_every_spectrum_once_and_average_to_the_whole(measured: dict) -> None:
    for rows in measured["bins"].values():
        assert sum(row["n"] for row in rows) == measured["n_spectra"]
        mean = np.average([row["mae"] for row in rows], weights=[row["n"] for row in rows])
        assert mean == pytest.approx(measured["overall"]["mae"])


def test_cores_wings_and_continuum_share_the_pixels(measured: dict) -> None:
    parts = measured["depths"].values()
    assert sum(part["fraction"] for part in parts) == pytest.approx(1.0)
    assert sum(part["fraction"] * part["mae"] for part in parts) == pytest.approx(
        measured["overall"]["mae"])


def test_differences_of_a_perfect_emulator_have_slope_one(grid: Grid) -> None:
    rows = grid.rows("validation")
    true = grid.flux(rows).astype(float)
    assert differences(grid, rows, true, true) == {"relative": 0.0, "slope": pytest.approx(1.0)}
    halved = differences(grid, rows, 0.5 * true, true)
    assert halved["slope"] == pytest.approx(0.5)
    assert halved["relative"] == pytest.approx(0.5)


def test_a_label_heard_at_half_its_strength_has_slope_one_half(grid: Grid) -> None:
    rows = grid.rows("validation")
    true = grid.flux(rows).astype(float)
    perfect = mean_derivatives(grid, rows, true, true)
    assert all((m["relative"], m["slope"]) == (0.0, 1.0) for m in perfect.values())
    assert set(perfect) == {"teff", "logg", "fe_h", "mg_fe"}
    # per pixel, half of what a regression says that the temperature does is taken away
    scaled = grid.label_set.scale(grid.labels)
    scaled[:, 3] -= scaled[:, 2]
    train = grid.rows("train")
    design = np.column_stack([scaled[train], np.ones(len(train))])
    slopes = np.linalg.lstsq(design, grid.flux(train).astype(float), rcond=None)[0]
    emulated = true - 0.5 * scaled[rows][:, [0]] * slopes[0]
    heard = mean_derivatives(grid, rows, emulated, true)
    assert heard["teff"]["slope"] == pytest.approx(0.5, abs=1e-3)
    assert heard["teff"]["relative"] == pytest.approx(0.5, abs=1e-3)
    assert heard["mg_fe"]["relative"] < 1e-3


def test_a_grid_of_a_few_steps_in_a_label_has_a_card(
    emulator: Emulator, write_grid: Callable[..., Path]
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        labels = file["labels"][:]
        labels[:, 1] = np.where(np.arange(len(labels)) % 3 == 0, 4.0, 2.0)
        file["labels"][:] = labels
    grid = Grid(path)
    bins = card(emulator, grid)["bins"]["logg"]
    assert sum(row["n"] for row in bins) == len(grid.rows("validation"))
    assert all(row["n"] > 0 for row in bins)


def test_pixels_of_weight_0_are_nowhere_in_a_card(emulator: Emulator, grid: Grid) -> None:
    grid.weight[:100] = 0.0
    weighted = card(emulator, grid)
    rows, flux = grid.rows("validation"), grid.flux
    emulated, true = emulate(emulator, grid, rows)[:, 100:], flux(rows)[:, 100:]
    assert sum(part["fraction"] * part["mae"] for part in weighted["depths"].values()
               ) == pytest.approx(weighted["overall"]["mae"])
    assert sum(row["n"] * row["mae"] for row in weighted["bins"]["teff"]
               ) == pytest.approx(12 * weighted["overall"]["mae"])
    assert weighted["differences"] == pytest.approx(
        differences(grid, rows, emulated.astype(float), true.astype(float)))


def test_two_spectra_of_a_path_have_a_card(
    emulator: Emulator, write_grid: Callable[..., Path]
) -> None:
    measured = card(emulator, write_grid(n_spec=12))
    assert [row["n"] for row in measured["bins"]["teff"]] == [1, 1]


def test_a_ripple_along_a_label_is_found(emulator: Emulator, grid: Grid) -> None:
    rows, column = grid.rows("validation"), grid.label_set.index("teff")
    smooth = roughness(emulator, grid, rows)["teff"]
    flux = emulator.flux

    def rippled(labels: torch.Tensor, wavelength: torch.Tensor) -> torch.Tensor:
        return flux(labels, wavelength) + 0.01 * torch.sin(labels[:, column:column + 1])

    emulator.flux = rippled  # type: ignore[method-assign]
    found = roughness(emulator, grid, rows)["teff"]
    assert smooth < 0.003 < found < 0.02


def test_errors_are_not_measured_on_nothing(emulator: Emulator, grid: Grid) -> None:
    with pytest.raises(ValueError, match="has no test spectra: choose others with split="):
        measure_errors(emulator, grid, split="test")


def test_errors_are_measured_at_the_pixels_of_the_emulator(
    emulator: Emulator, write_grid: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match="is not on the 200 pixels of 'small': measure on"):
        measure_errors(emulator, write_grid(n_pix=30))
    emulator.medium = "vacuum"
    with pytest.raises(ValueError, match="is not in vacuum, as 'small' is"):
        measure_errors(emulator, write_grid())


def test_the_error_sample_is_what_the_emulator_gets_wrong(
    emulator: Emulator, grid: Grid, tmp_path: Path
) -> None:
    emulator.errors = measure_errors(emulator, grid)
    emulator.card = card(emulator, grid)
    rows = grid.rows("validation")
    expected = emulate(emulator, grid, rows) - grid.flux(rows)
    np.testing.assert_array_equal(emulator.errors.errors, expected)
    np.testing.assert_array_equal(emulator.errors.labels, grid.labels[rows])
    again = load(emulator.save(tmp_path / "saved"))
    np.testing.assert_allclose(again.errors.errors, expected.clip(-0.5, 0.5), atol=1e-5)
    assert again.card == emulator.card
