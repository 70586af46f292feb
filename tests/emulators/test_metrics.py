"""The six measures, against numpy on arrays one can check by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emulators import Emulator, Grid, evaluate
from emulators.metrics import DESCRIPTIONS, _Tally, emulate, flux_metrics


def _by_numpy(emulated: np.ndarray, true: np.ndarray) -> dict[str, float]:
    known = np.isfinite(true)
    largest = [np.abs(e - t)[k].max() for e, t, k in zip(emulated, true, known, strict=True)
               if k.any()]
    error, true = np.abs(emulated - true)[known], true[known]
    quantile = np.quantile(error, 0.95)
    return {
        "mse": np.mean(error**2), "mae": np.mean(error), "maxae": np.mean(largest),
        "mare": np.mean(error / np.maximum(true, 0.01)), "qae95": quantile,
        "qmae95": np.mean(error[error >= quantile]),
    }


def test_the_measures_of_a_hand_made_pair() -> None:
    true = np.array([[1.0, 0.5, 0.2, 1.0], [1.0, 1.0, 1.0, 0.0]])
    emulated = np.array([[0.9, 0.5, 0.3, 1.0], [1.0, 0.6, 1.0, 0.001]])
    metrics = flux_metrics(emulated, true)
    assert metrics["mse"] == pytest.approx((0.01 + 0.01 + 0.16 + 1e-6) / 8)
    assert metrics["mae"] == pytest.approx((0.1 + 0.1 + 0.4 + 0.001) / 8)
    assert metrics["maxae"] == pytest.approx((0.1 + 0.4) / 2)
    # the last flux is 0, for which 0.01 stands
    assert metrics["mare"] == pytest.approx((0.1 + 0.5 + 0.4 + 0.1) / 8)
    assert metrics["qae95"] == pytest.approx(0.1 + 0.65 * 0.3)
    assert metrics["qmae95"] == pytest.approx(0.4)


def test_maxae_is_the_mean_over_spectra_of_the_largest_error() -> None:
    true, emulated = np.ones((3, 5)), np.ones((3, 5))
    emulated[0, 2], emulated[1, 0] = 0.4, 1.3
    assert flux_metrics(emulated, true)["maxae"] == pytest.approx((0.6 + 0.3 + 0.0) / 3)
    assert "mean over spectra" in DESCRIPTIONS["maxae"]


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_a_stream_of_spectra_has_the_measures_of_the_whole(
    n_spec: int, n_pix: int, parts: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.0, 1.0, (n_spec, n_pix))
    emulated = true + rng.standard_t(2, size=true.shape) * 0.01
    tally = _Tally(true.size)
    for rows in np.array_split(np.arange(n_spec), min(parts, n_spec)):
        tally.add(emulated[rows], true[rows])
    assert tally.metrics() == pytest.approx(_by_numpy(emulated, true), rel=1e-9)
    assert flux_metrics(emulated, true) == pytest.approx(tally.metrics(), rel=1e-12)


@given(st.integers(1, 30), st.integers(2, 40), st.integers(1, 5), st.floats(0.0, 0.97),
       st.integers(0, 2**32 - 1))
def test_unknown_fluxes_count_for_nothing(
    n_spec: int, n_pix: int, parts: int, unknown: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.0, 1.0, (n_spec, n_pix))
    emulated = true + rng.standard_t(2, size=true.shape) * 0.01
    true[rng.random(true.shape) < unknown] = np.nan
    true[0, 0] = 0.5
    tally = _Tally(int(np.isfinite(true).sum()))
    for rows in np.array_split(np.arange(n_spec), min(parts, n_spec)):
        tally.add(emulated[rows], true[rows])
    assert tally.metrics() == pytest.approx(_by_numpy(emulated, true), rel=1e-9)


def test_measures_of_arrays_leave_unknown_fluxes_out() -> None:
    rng = np.random.default_rng(3)
    true = rng.uniform(0.0, 1.0, (5, 40))
    emulated = true + 0.01 * rng.standard_normal(true.shape)
    true[:, :20] = np.nan
    assert flux_metrics(emulated, true) == pytest.approx(_by_numpy(emulated, true), rel=1e-9)


def test_a_flux_that_the_emulator_cannot_give_is_no_perfect_one() -> None:
    emulated = np.full((2, 30), 0.9)
    emulated[1, 3] = np.nan
    assert np.isnan(flux_metrics(emulated, np.ones((2, 30)))["mse"])


def test_every_measure_is_described() -> None:
    assert list(flux_metrics(np.ones((1, 2)), np.ones((1, 2)))) == list(DESCRIPTIONS)


@pytest.mark.parametrize(("emulated", "true"), [
    (np.ones(3), np.ones(3)), (np.ones((2, 3)), np.ones(3)),
])
def test_fluxes_of_another_shape_are_refused(emulated: np.ndarray, true: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(n_spec, n_pix\)"):
        flux_metrics(emulated, true)


@pytest.mark.parametrize("true", [np.ones((0, 3)), np.full((2, 3), np.nan)])
def test_nothing_to_compare_with_has_no_measures(true: np.ndarray) -> None:
    with pytest.raises(ValueError, match="there is no finite flux to compare with"):
        flux_metrics(np.ones(true.shape), true)


def test_evaluate_measures_the_validation_spectra(emulator: Emulator, grid: Grid) -> None:
    rows = grid.rows("validation")
    with torch.no_grad():
        flux = emulator(torch.as_tensor(grid.labels[rows]), grid.wavelength).numpy()
    assert evaluate(emulator, grid) == pytest.approx(_by_numpy(flux, grid.flux(rows)), rel=1e-5)
    assert evaluate(emulator, grid) != evaluate(emulator, grid, split="train")


def test_labels_are_matched_by_name(
    emulator: Emulator, grid: Grid, write_grid: Callable[..., Path]
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        file["labels"][:] = file["labels"][:][:, ::-1]
        file["labels"].attrs["names"] = file["labels"].attrs["names"][::-1]
    rows = np.arange(10)
    assert np.array_equal(emulate(emulator, Grid(path), rows), emulate(emulator, grid, rows))


def _vacuum(file: h5py.File) -> None:
    file["wavelength"].attrs["medium"] = "vacuum"


def _redder(file: h5py.File) -> None:
    file["wavelength"][:] = file["wavelength"][:] + 1.0


def _training_only(file: h5py.File) -> None:
    file["split"][:] = 0


def _other_labels(file: h5py.File) -> None:
    file["labels"].attrs["names"] = ["teff", "logg", "fe_h", "ca_h"]


def _unknown_fluxes(file: h5py.File) -> None:
    flux = np.ones((60, 200), np.float32)
    flux[4::5] = np.nan
    del file["flux"]
    file["flux"] = flux


def test_evaluate_leaves_unknown_fluxes_out(
    emulator: Emulator, write_grid: Callable[..., Path]
) -> None:
    path = write_grid()
    flux = Grid(path).flux(np.arange(60))
    flux[np.random.default_rng(5).random(flux.shape) < 0.2] = np.nan
    flux[9] = np.nan  # the whole of a validation spectrum
    with h5py.File(path, "r+") as file:
        del file["flux"]
        file["flux"] = flux
    rows = np.arange(4, 60, 5)
    emulated = emulate(emulator, Grid(path), rows)
    assert evaluate(emulator, path) == pytest.approx(_by_numpy(emulated, flux[rows]), rel=1e-5)


@pytest.mark.parametrize(("spoil", "sentence"), [
    (_vacuum, "is not in air, as 'small' is"),
    (_redder, "reaches beyond 5160.00-5180.58 Å of 'small'"),
    (_training_only, "has no validation spectra"),
    (_other_labels, "unknown label 'mg_h'"),
    (_unknown_fluxes, "has no finite flux in its validation spectra"),
])
def test_a_grid_that_does_not_suit_the_emulator_is_refused(
    emulator: Emulator, write_grid: Callable[..., Path], spoil: Callable[[h5py.File], None],
    sentence: str,
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(ValueError, match=sentence):
        evaluate(emulator, Grid(path))
