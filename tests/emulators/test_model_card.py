"""The model card: its numbers are those that a few lines of numpy give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emulators import Emulator, Grid, card, evaluate, load, measure_errors
from emulators.metrics import emulate
from emulators.model_card import differences, roughness


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


def test_a_ripple_along_a_label_is_found(emulator: Emulator, grid: Grid) -> None:
    rows, column = grid.rows("validation"), grid.label_set.index("teff")
    smooth = roughness(emulator, grid, rows)["teff"]
    flux = emulator.flux

    def rippled(labels: torch.Tensor, wavelength: torch.Tensor) -> torch.Tensor:
        return flux(labels, wavelength) + 0.01 * torch.sin(labels[:, column:column + 1])

    emulator.flux = rippled  # type: ignore[method-assign]
    found = roughness(emulator, grid, rows)["teff"]
    assert smooth < 0.003 < found < 0.02


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
