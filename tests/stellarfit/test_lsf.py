"""Line spread and pixels against brute force, closed forms, and what they must preserve."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erf

from stellarfit.constants import SPEED_OF_LIGHT
from stellarfit.lsf import (
    REACH,
    SIGMA_PER_FWHM,
    LineSpread,
    cumulative,
    gathered,
    multiplied,
    pixel_edges,
    sigma_of,
)

START = math.log(5160.0)


def lines(y):
    """Absorption at y = ln(wavelength) - START: blends, narrow and wide, all above 1e-5 wide."""
    return 1.0 - sum(d * np.exp(-0.5 * ((y - c) / s) ** 2) for c, d, s in (
        (2.00e-3, 0.6, 1.5e-5), (2.03e-3, 0.2, 1.2e-5), (2.3e-3, 0.8, 6e-5), (2.4e-3, 0.1, 2e-4),
        (2.66e-3, 0.5, 1.3e-5), (2.7e-3, 0.25, 2e-5)))


def make(wavelength, resolution, step, n_grid=None):
    """A line spread on a grid that covers the pixels amply."""
    n_grid = n_grid or int((np.log(wavelength[-1]) - START + 2e-3) / step)
    return LineSpread(wavelength, log_start=START, log_step=step, n_grid=n_grid,
                      smallest_resolution=resolution)


def grid(spread):
    return spread.log_step * np.arange(spread.n_grid)


def observe(spread, flux, velocity_shift, resolution):
    shift = torch.tensor([velocity_shift], dtype=torch.float64)
    sigma = sigma_of(torch.tensor([resolution], dtype=torch.float64))
    return spread(torch.as_tensor(flux)[None], shift, sigma)[0].numpy()


def pixels(low, high, step):
    """Uniform in wavelength: in ln(wavelength) they get finer to the red."""
    return 5160.0 * np.arange(np.exp(low), np.exp(high), step)


CASES = [
    pytest.param(115_000.0, 5e-6, 2e-6, id="R=115000 on pixels finer than the grid"),
    pytest.param(115_000.0, 5e-6, 4.3e-6, id="R=115000"),
    pytest.param(30_000.0, 1e-5, 1.3e-5, id="R=30000"),
    pytest.param(20_000.0, 1e-5, 2.0e-5, id="R=20000"),
    pytest.param(30_000.0, 1e-5, 5.7e-5, id="R=30000 undersampled"),
    pytest.param(1_800.0, 1e-5, 1.9e-4, id="R=1800"),
    pytest.param(1_800.0, 1e-5, 8e-4, id="R=1800 on very coarse pixels"),
]


def brute_force(y, low, high, sigma, step, h=(0.0, 0.0)):
    """Convolve and average `lines` on a grid 20 times finer, by plain sums."""
    fine = step / 20.0
    x = np.arange(y.min() - 9 * sigma - 2e-3, y.max() + 9 * sigma + 2e-3, fine)
    offsets = fine * np.arange(-int(8 * sigma / fine) - 1, int(8 * sigma / fine) + 2)
    kernel = hermite_profile(offsets / sigma, *h)
    blurred = 1.0 - np.convolve(1.0 - lines(x), kernel / kernel.sum(), mode="same")
    integral = np.concatenate([[0.0], np.cumsum(0.5 * fine * (blurred[1:] + blurred[:-1]))])
    return (np.interp(high, x, integral) - np.interp(low, x, integral)) / (high - low)


@pytest.mark.parametrize(("resolution", "step", "pixel"), CASES)
@pytest.mark.parametrize("shift", [0.0, 1.234e-4])
def test_pixels_hold_the_mean_of_the_convolved_spectrum(resolution, step, pixel, shift):
    wavelength = pixels(1.5e-3, 3.2e-3, pixel)
    low, high = (e - START - shift for e in pixel_edges(wavelength))
    spread = make(wavelength, resolution, step)
    sigma = SIGMA_PER_FWHM / resolution
    expected = brute_force(np.log(wavelength) - START - shift, low, high, sigma, step)
    ours = observe(spread, lines(grid(spread)), shift, resolution)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("resolution", "step", "pixel"), CASES)
@pytest.mark.parametrize("shift", [0.0, -3.1e-4, 5e-4])
def test_equivalent_width_is_preserved(resolution, step, pixel, shift):
    margin = 12 * SIGMA_PER_FWHM / resolution + 1e-3
    wavelength = 5160.0 * np.exp(np.arange(2e-3 - margin, 2e-3 + margin, pixel))
    start = START - 2 * margin
    spread = LineSpread(wavelength, log_start=start, log_step=step,
                        n_grid=int((4e-3 + 4 * margin) / step), smallest_resolution=resolution)
    y = start + step * np.arange(spread.n_grid) - START
    flux = 1.0 - 0.7 * np.exp(-0.5 * ((y - 2e-3) / 2e-5) ** 2)
    low, high = pixel_edges(wavelength)
    observed = observe(spread, flux, shift, resolution)
    width = ((1.0 - observed) * (high - low)).sum()
    # In ln(wavelength), where a Doppler shift stretches nothing.
    assert width == pytest.approx(0.7 * 2e-5 * math.sqrt(2 * math.pi), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_continuum_stays_exactly_one(dtype):
    wavelength = pixels(1e-3, 2e-3, 1.7e-5)
    spread = make(wavelength, 9_000.0, 1e-5)
    shift = torch.tensor([0.0, 3.3e-4, -1e-1], dtype=torch.float64)       # the last: off the grid
    sigma = sigma_of(torch.tensor([9_000.0, 40_000.0, 1e9]))
    flux = spread(torch.ones(3, spread.n_grid, dtype=dtype), shift, sigma)
    assert flux.dtype == dtype
    torch.testing.assert_close(flux, torch.ones_like(flux), rtol=0,
                               atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("velocity", [-300.0, -0.01, 7.7, 120.0])
@pytest.mark.parametrize("resolution", [20_000.0, 115_000.0])
def test_a_shifted_gaussian_line_has_its_closed_form(velocity, resolution):
    shift = math.atanh(velocity / SPEED_OF_LIGHT)
    wavelength = pixels(2e-3 + shift - 4e-4, 2e-3 + shift + 4e-4, 7e-6)
    depth, width, centre = 0.8, 1.1e-5, 2.00321e-3
    step = 5e-6
    spread = LineSpread(wavelength, log_start=START, log_step=step, n_grid=900,
                        smallest_resolution=resolution)
    flux = 1.0 - depth * np.exp(-0.5 * ((step * np.arange(900) - centre) / width) ** 2)
    total = math.hypot(width, SIGMA_PER_FWHM / resolution)
    low, high = (e - START - shift - centre for e in pixel_edges(wavelength))
    mean = math.sqrt(math.pi / 2) * total * (
        erf(high / total / math.sqrt(2)) - erf(low / total / math.sqrt(2))) / (high - low)
    observed = observe(spread, flux, shift, resolution)
    np.testing.assert_allclose(observed, 1.0 - depth * width / total * mean, rtol=0, atol=1e-4)


def test_a_shift_by_whole_pixels_moves_the_spectrum_by_whole_pixels():
    step = 1e-5
    wavelength = 5160.0 * np.exp(1.5e-3 + step * np.arange(150))
    spread = make(wavelength, 30_000.0, step)
    still, moved = (observe(spread, lines(grid(spread)), s, 30_000.0) for s in (0.0, 7 * step))
    np.testing.assert_allclose(moved[7:], still[:-7], rtol=0, atol=1e-9)


@pytest.mark.parametrize("resolution", [3_000.0, 20_000.0, 50_000.0])
def test_gradients_in_shift_and_sigma_equal_finite_differences(resolution):
    wavelength = pixels(1.8e-3, 2.9e-3, 2.1e-5)
    spread = make(wavelength, 0.8 * resolution, 1e-5)
    flux = torch.as_tensor(lines(grid(spread)))[None]
    at = (torch.tensor([2.34e-5], dtype=torch.float64),
          sigma_of(torch.tensor([resolution], dtype=torch.float64)))
    for k in (0, 1):
        direction = [torch.zeros(1, dtype=torch.float64) for _ in at]
        direction[k] += 1.0
        _, forward = torch.func.jvp(lambda *x: spread(flux, *x), at, tuple(direction))
        h = 1e-4 * float(at[1])

        def difference(h, direction=direction):
            up, down = (spread(flux, *(a + s * h * d for a, d in zip(at, direction, strict=True)))
                        for s in (1, -1))
            return (up - down) / (2 * h)

        numeric = (4 * difference(h / 2) - difference(h)) / 3
        assert (forward - numeric).abs().max() < 1e-5 * numeric.abs().max()
        inputs = [a.clone().requires_grad_() for a in at]
        probe = torch.cos(torch.arange(len(wavelength), dtype=torch.float64))
        (spread(flux, *inputs) * probe).sum().backward()
        assert inputs[k].grad.item() == pytest.approx(float((forward * probe).sum()), rel=1e-9)


def test_shifting_across_a_grid_point_is_continuous():
    wavelength = pixels(1.9e-3, 2.1e-3, 1.3e-5)
    spread = make(wavelength, 30_000.0, 1e-5)
    shifts = 1e-5 * np.linspace(-1.0, 1.0, 401)
    flux = np.array([observe(spread, lines(grid(spread)), s, 30_000.0) for s in shifts])
    slope = np.abs(np.diff(flux, axis=0))
    assert slope.max() < 1e-4 + 1.1 * slope.mean(axis=0).max() * 3
    assert np.abs(np.diff(flux, 2, axis=0)).max() < 3e-5


def test_edges_lie_halfway_and_a_gap_is_not_filled():
    y = np.concatenate([1e-5 * np.arange(20), 1e-3 + 1e-5 * np.arange(20)])
    low, high = (e - START for e in pixel_edges(5160.0 * np.exp(y)))
    np.testing.assert_allclose(low, y - 5e-6, rtol=0, atol=1e-14)
    np.testing.assert_allclose(high, y + 5e-6, rtol=0, atol=1e-14)


def test_edges_of_slowly_changing_pixels_join():
    low, high = pixel_edges(np.cumsum(0.01 * 1.01 ** np.arange(200)) + 5160.0)
    np.testing.assert_allclose(high[:-1], low[1:], rtol=0, atol=1e-14)
    assert (high > low).all()


def test_a_gap_between_detectors_changes_nothing_beside_it():
    whole = 5160.0 * np.exp(1.5e-3 + 1.2e-5 * np.arange(140))
    keep = (np.arange(140) < 50) | (np.arange(140) >= 75)
    full, cut = make(whole, 30_000.0, 1e-5), make(whole[keep], 30_000.0, 1e-5, n_grid=600)
    flux = lines(grid(full))
    padded = np.append(flux, np.ones(max(0, cut.n_grid - len(flux))))[:cut.n_grid]
    np.testing.assert_allclose(observe(cut, padded, 0.0, 30_000.0),
                               observe(full, flux, 0.0, 30_000.0)[keep], rtol=0, atol=1e-9)


def test_irregular_pixels_hold_their_own_means():
    rng = np.random.default_rng(0)
    y = 1.6e-3 + np.cumsum(1.5e-5 * rng.uniform(0.85, 1.15, 80))
    wavelength = 5160.0 * np.exp(y)
    low, high = (e - START for e in pixel_edges(wavelength))
    spread = make(wavelength, 30_000.0, 1e-5)
    expected = brute_force(y, low, high, SIGMA_PER_FWHM / 30_000.0, 1e-5)
    ours = observe(spread, lines(grid(spread)), 0.0, 30_000.0)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


def test_a_batch_of_stars_is_observed_like_each_of_them():
    wavelength = pixels(1.8e-3, 2.9e-3, 2.1e-5)
    spread = make(wavelength, 10_000.0, 1e-5)
    rng = np.random.default_rng(1)
    flux = torch.as_tensor(1 - 0.3 * rng.uniform(size=(2, 3, spread.n_grid)))
    shift = torch.tensor([-2e-4, 0.0, 3.21e-4], dtype=torch.float64)
    sigma = sigma_of(torch.tensor([10_000.0, 25_000.0, 40_000.0]))
    batch = spread(flux, shift, sigma)
    for i in range(2):
        for k in range(3):
            alone = spread(flux[i, k:k + 1], shift[k:k + 1], sigma[k:k + 1])[0]
            torch.testing.assert_close(batch[i, k], alone, rtol=0, atol=1e-14)


def test_a_profile_per_pixel_equals_the_constant_one_where_it_is_the_same():
    wavelength = pixels(1.8e-3, 2.9e-3, 2.1e-5)
    spread = make(wavelength, 10_000.0, 1e-5)
    flux, shift = torch.as_tensor(lines(grid(spread)))[None], torch.zeros(1, dtype=torch.float64)
    sharp, soft = (sigma_of(torch.tensor([r])) for r in (40_000.0, 10_000.0))
    mixed = torch.where(torch.arange(len(wavelength)) < 20, sharp, soft)[None]
    observed = spread(flux, shift, mixed)
    assert torch.equal(observed[:, :20], spread(flux, shift, sharp)[:, :20])
    assert torch.equal(observed[:, 20:], spread(flux, shift, soft)[:, 20:])


def test_nothing_beyond_the_reach_enters_a_pixel():
    wavelength = 5160.0 * np.exp(2e-3 + 2e-5 * np.arange(11))
    spread = make(wavelength, 20_000.0, 1e-5)
    far = np.abs(grid(spread) - 2.1e-3) > spread.reach(20_000.0)
    flux = np.where(far, 1.0, 0.0)
    assert spread.reach(20_000.0) == pytest.approx(1e-5 + REACH * SIGMA_PER_FWHM / 20_000.0)
    assert observe(spread, flux, 0.0, 20_000.0)[5] < 2e-6


def test_single_precision_agrees_with_double():
    wavelength = pixels(1.8e-3, 2.9e-3, 2.1e-5)
    spread = make(wavelength, 20_000.0, 1e-5)
    flux = lines(grid(spread))
    single = observe(spread, flux.astype(np.float32), 1.1e-4, 20_000.0)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, observe(spread, flux, 1.1e-4, 20_000.0), rtol=0, atol=1e-6)


def hermite_profile(x, h3, h4):
    """Van der Marel & Franx 1993, eq. 9, as it is printed."""
    third = (2 * np.sqrt(2) * x**3 - 3 * np.sqrt(2) * x) / np.sqrt(6)
    fourth = (4 * x**4 - 12 * x**2 + 3) / np.sqrt(24)
    return np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) * (1 + h3 * third + h4 * fourth)


@pytest.mark.parametrize(("h3", "h4"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.1), (-0.08, 0.06)])
def test_the_integral_of_a_gauss_hermite_profile_has_its_closed_form(h3, h4):
    x = np.linspace(-6, 6, 120_001)
    expected = np.concatenate([[0.0], np.cumsum(
        0.5 * np.diff(x) * (hermite_profile(x, h3, h4)[1:] + hermite_profile(x, h3, h4)[:-1]))])
    ours = cumulative(torch.as_tensor(x), h3, h4).numpy()
    np.testing.assert_allclose(ours - ours[0], expected, atol=1e-8)


@pytest.mark.parametrize(("resolution", "step", "pixel"), CASES)
@pytest.mark.parametrize("h", [(0.1, 0.0), (-0.05, 0.08)])
def test_gauss_hermite_pixels_hold_the_mean_of_the_convolved_spectrum(resolution, step, pixel, h):
    wavelength = pixels(1.5e-3, 3.2e-3, pixel)
    low, high = (e - START for e in pixel_edges(wavelength))
    sigma = SIGMA_PER_FWHM / resolution
    step = min(step, sigma)                              # as the forward model divides it
    spread = LineSpread(wavelength, log_start=START, log_step=step,
                        n_grid=int((np.log(wavelength[-1]) - START + 2e-3) / step),
                        smallest_resolution=resolution, h3=h[0], h4=h[1])
    expected = brute_force(np.log(wavelength) - START, low, high, sigma, step, h)
    ours = observe(spread, lines(grid(spread)), 0.0, resolution)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


def test_each_pixel_may_have_a_resolution_of_its_own():
    wavelength = pixels(1.5e-3, 3.2e-3, 2e-5)
    spread = make(wavelength, 15_000.0, 1e-5)
    flux, shift = torch.as_tensor(lines(grid(spread)))[None], torch.zeros(1, dtype=torch.float64)
    half = len(wavelength) // 2
    resolution = torch.full((1, len(wavelength)), 15_000.0, dtype=torch.float64)
    resolution[:, half:] = 40_000.0
    mixed = spread(flux, shift, sigma_of(resolution))[0]
    for part, r in ((slice(None, half), 15_000.0), (slice(half, None), 40_000.0)):
        alone = spread(flux, shift, sigma_of(torch.tensor([r])))[0]
        torch.testing.assert_close(mixed[part], alone[part])


def test_the_sparse_product_is_the_sum_over_the_band() -> None:
    rng = np.random.default_rng(1)
    spread = make(pixels(1e-3, 4e-3, 2e-5), 20_000.0, 1e-5)
    flux = torch.as_tensor(1 - 0.3 * rng.uniform(size=(2, 3, spread.n_grid)))
    shift = torch.tensor([0.0, 1e-4, -3e-3], dtype=torch.float64)     # the last beyond the grid
    weights = spread.weights(shift, sigma_of(torch.tensor([2e4, 3e4, 2e4])), flux.dtype)
    torch.testing.assert_close(multiplied(flux, *weights), gathered(flux, *weights))
    torch.testing.assert_close(multiplied(flux[0], *weights), gathered(flux[0], *weights))
