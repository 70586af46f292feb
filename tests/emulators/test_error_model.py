"""The emulator's own errors: kept with it, and taken where they were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emulators import Emulator, LabelSet, load
from emulators.error_model import LEAST, ErrorModel

LABELS = LabelSet(("logg", "mg_h", "teff", "fe_h"), ("dex", "dex", "K", "dex"),
                  (1.0, -1.0, 4000.0, -1.0), (5.0, 0.5, 7000.0, 0.5))
STEP = 0.5 / 32767  # 1.5e-5


def sample(n_star: int, n_pix: int = 30, seed: int = 0) -> ErrorModel:
    rng = np.random.default_rng(seed)
    labels = rng.uniform(LABELS.low, LABELS.high, (n_star, 4))
    errors = 0.01 * rng.standard_normal((n_star, n_pix))
    return ErrorModel(torch.as_tensor(errors, dtype=torch.float32), torch.as_tensor(labels))


def effective(weights: torch.Tensor) -> float:
    return float(weights.sum() ** 2 / weights.square().sum())


def sigma_of(model: ErrorModel, star: np.ndarray) -> np.ndarray:
    return (model.near(star, LABELS) ** 2).sum(0).sqrt().numpy()


def test_errors_are_saved_with_the_emulator_in_steps_of_sixteen_bits(
    emulator: Emulator, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    errors = 0.02 * rng.standard_normal((12, 200))
    errors[0, :3] = 0.4999, -0.7, 0.9  # the last two are beyond what is stored
    labels = rng.uniform(4000.0, 7000.0, (12, 4))
    emulator.errors = ErrorModel(torch.as_tensor(errors, dtype=torch.float32),
                                 torch.as_tensor(labels))
    again = load(emulator.save(tmp_path)).errors
    assert again is not None
    assert np.abs(again.errors.numpy() - errors.clip(-0.5, 0.5)).max() <= 0.5 * STEP * (1 + 1e-3)
    np.testing.assert_allclose(again.labels, labels, rtol=1e-7)
    assert (again.errors.dtype, again.labels.dtype) == (torch.float32, torch.float64)
    assert torch.equal(load(load(tmp_path).save(tmp_path / "b")).errors.errors, again.errors)


def test_modes_hold_the_mean_square_and_forget_little_of_how_pixels_move_together() -> None:
    model = sample(80)
    shared = 0.02 * np.random.default_rng(4).standard_normal((80, 1))
    model = ErrorModel(model.errors + torch.as_tensor(shared, dtype=torch.float32), model.labels)
    star = np.array([3.0, 0.0, 5500.0, -0.2])
    modes, near = model.modes(star, LABELS).double(), model.near(star, LABELS)
    assert float((modes**2).sum()) == pytest.approx(float((near**2).sum()), rel=0.2)
    along = torch.ones(30, dtype=torch.float64) / np.sqrt(30)
    assert float((modes @ along).square().sum()) == pytest.approx(
        float((near @ along).square().sum()), rel=0.3)
    # what is computed for one star serves those beside it, at the size of their own errors
    beside = np.array([3.0, 0.3, 5501.0, -0.199])
    ratio = model.modes(beside, LABELS).double() / modes
    expected = model.size(beside, LABELS) / model.size(star, LABELS)
    np.testing.assert_allclose(ratio, expected[0] * np.ones(ratio.shape), rtol=1e-5)
    with pytest.raises(ValueError, match="finite"):
        model.modes(np.array([np.nan, 0.0, 5500.0, -0.2]), LABELS)


def test_an_emulator_that_was_not_measured_has_none(emulator: Emulator, tmp_path: Path) -> None:
    assert load(emulator.save(tmp_path)).errors is None


@pytest.mark.parametrize("n_star", [1, 7, 100])
def test_stars_all_alike_have_the_rms_of_the_sample(n_star: int) -> None:
    model = sample(n_star)
    star = np.array([4.0, 0.0, 5500.0, -0.2])
    alike = ErrorModel(model.errors, torch.as_tensor(np.tile(star, (n_star, 1))))
    expected = np.sqrt(np.mean(model.errors.double().numpy() ** 2, axis=0))
    for asked in (star, np.array([1.0, -1.0, 4000.0, 0.5])):
        np.testing.assert_allclose(sigma_of(alike, asked), expected, rtol=1e-12)


@given(n_star=st.integers(2, 300), seed=st.integers(0, 99),
       place=st.lists(st.floats(-1.0, 2.0), min_size=4, max_size=4))
def test_enough_stars_have_a_say_wherever_one_asks(
    n_star: int, seed: int, place: list[float]
) -> None:
    low, high = np.array(LABELS.low), np.array(LABELS.high)
    weights = sample(n_star, seed=seed).weights(low + (high - low) * place, LABELS)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert effective(weights) >= min(LEAST, 0.5 * n_star) - 1e-9


def test_no_more_stars_have_a_say_than_needed() -> None:
    weights = sample(3000).weights(np.array([3.0, 0.0, 5500.0, -0.2]), LABELS)
    assert LEAST <= effective(weights) < 3.0 * LEAST


def test_nearer_stars_weigh_more() -> None:
    model, star = sample(400), np.array([3.0, 0.0, 5500.0, -0.2])
    weights = model.weights(star, LABELS).numpy()
    labels = model.labels.numpy()
    columns = [2, 0, 3]  # teff, logg, fe_h: magnesium has no say
    distance = np.sum(((labels - star) / labels.std(axis=0))[:, columns] ** 2, axis=1)
    order = np.argsort(distance)
    assert (np.diff(weights[order]) <= 0).all()
    # Gaussian in the distance: its logarithm is a straight line
    near = order[:60]
    slope, start = np.polyfit(distance[near], np.log(weights[near]), 1)
    assert slope < 0
    np.testing.assert_allclose(np.log(weights[near]), start + slope * distance[near], atol=1e-9)


def test_magnesium_has_no_say() -> None:
    model = sample(200)
    one, other = (sigma_of(model, np.array([3.0, mg, 5500.0, -0.2])) for mg in (-1.0, 0.5))
    assert np.array_equal(one, other)


def test_the_error_is_that_of_stars_like_the_one_asked_for() -> None:
    model = sample(1000, n_pix=50)
    teff = model.labels[:, 2]
    scale = torch.where(teff < 5500.0, 3.0, 1.0).unsqueeze(1)
    model = ErrorModel(scale * model.errors, model.labels)
    for asked, expected in ((4300.0, 0.03), (6700.0, 0.01)):
        sigma = sigma_of(model, np.array([3.0, 0.0, asked, -0.2]))
        assert sigma.shape == (50,)
        assert np.sqrt(np.mean(sigma**2)) == pytest.approx(expected, rel=0.1)


def test_where_too_few_tell_of_sizes_sigma_is_the_weighted_rms() -> None:
    model, star = sample(30), np.array([2.0, -0.5, 4500.0, 0.1])
    weights = model.weights(star, LABELS).numpy()
    expected = np.sqrt(np.sum(weights[:, None] * model.errors.double().numpy() ** 2, axis=0))
    np.testing.assert_allclose(sigma_of(model, star), expected, rtol=1e-12)


def test_errors_whose_size_changes_with_the_labels_are_followed_everywhere() -> None:
    model = sample(300, n_pix=400)
    teff, logg = model.labels[:, 2], model.labels[:, 0]
    size = torch.exp((5500.0 - teff) / 800.0 + 0.1 * (logg - 3.0) ** 2)
    model = ErrorModel((size[:, None] * model.errors).float(), model.labels)
    for t, g in ((4200.0, 2.0), (5500.0, 3.0), (6900.0, 4.5)):
        sigma = sigma_of(model, np.array([g, 0.0, t, -0.2]))
        expected = 0.01 * np.exp((5500.0 - t) / 800.0 + 0.1 * (g - 3.0) ** 2)
        assert np.sqrt(np.mean(sigma**2)) == pytest.approx(expected, rel=0.05)


def test_beyond_the_sample_the_error_is_that_of_its_edge() -> None:
    model = sample(300)
    model = ErrorModel((torch.exp((5500.0 - model.labels[:, 2:3]) / 800.0) * model.errors).float(),
                       model.labels)
    edge, beyond = (sigma_of(model, np.array([3.0, 0.0, t, -0.2])) for t in (4000.0, 3000.0))
    assert np.sqrt(np.mean(beyond**2)) == pytest.approx(np.sqrt(np.mean(edge**2)), rel=0.1)


def test_labels_that_an_emulator_lacks_have_no_say() -> None:
    labels = LabelSet(("teff", "mg_h"), ("K", "dex"), (4000.0, -1.0), (7000.0, 0.5))
    rng = np.random.default_rng(0)
    model = ErrorModel(torch.as_tensor(rng.standard_normal((100, 5)), dtype=torch.float32),
                       torch.as_tensor(rng.uniform(labels.low, labels.high, (100, 2))))
    assert effective(model.weights(np.array([5000.0, 0.0]), labels)) >= LEAST


def test_a_spectrum_can_be_left_out_of_the_sample() -> None:
    model, star = sample(50), np.array([2.0, -0.5, 4500.0, 0.1])
    left = model.without(7)
    assert len(left.errors) == len(left.labels) == 49
    assert torch.equal(left.errors[7], model.errors[8])
    assert not np.array_equal(sigma_of(left, star), sigma_of(model, star))


def test_labels_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        sample(50).near(np.array([2.0, -0.5, np.nan, 0.1]), LABELS)
