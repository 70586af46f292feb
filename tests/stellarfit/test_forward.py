"""The forward model: its derivatives, its batches, and what its pixels may depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emulators import Emulator
from stellarfit.camera import refinement_for
from stellarfit.doppler import log_shift
from stellarfit.parameters import make_parameters
from tests.stellarfit.mocks import model_of

FREE = ("teff", "logg", "vmic", "fe_h", "mg_fe", "ca_h", "rv", "vsini", "resolution", "epsilon")
STARS = torch.tensor([
    [5772.0, 4.44, 1.0, 0.02, 0.05, -0.1, 12.3, 4.0, 31_000.0, 0.55],
    [4800.0, 2.60, 1.6, -0.8, 0.25, -0.7, -81.0, 17.0, 24_000.0, 0.7],
    [6400.0, 4.10, 1.4, -0.2, 0.10, -0.1, 40.0, 0.3, 30_000.0, 0.4],
], dtype=torch.float64)
#: steps that balance the truncation of a difference against rounding
STEPS = (2.0, 5e-3, 5e-3, 2e-3, 2e-3, 2e-3, 1e-2, 2e-2, 60.0, 1e-3)


def make(emulator, low=5181.0, high=5187.0, *, free=FREE, resolution=30_000.0, **kwargs):
    wavelength = np.exp(np.arange(np.log(low), np.log(high), 1.0 / (2.3 * resolution)))
    parameters = make_parameters(emulator.labels, emulator.domain, free=free,
                                 resolution=resolution, **kwargs.pop("parameters", {}))
    return model_of(emulator, parameters, wavelength, resolution=resolution,
                        **{"rv_range": (-100.0, 100.0), **kwargs})


@pytest.fixture(scope="module")
def model(emulator64):
    """Everything free, around a line of the magnesium triplet, R = 30,000."""
    return make(emulator64)


@pytest.fixture(scope="module")
def flux_and_jacobian(model):
    return model.jacobian(STARS)


@pytest.mark.parametrize("name", FREE)
def test_jacobian_equals_finite_differences(model, flux_and_jacobian, name):
    k = FREE.index(name)

    def difference(h):
        step = torch.zeros(len(FREE), dtype=torch.float64)
        step[k] = h
        with torch.no_grad():
            up, down = model(torch.cat([STARS + step, STARS - step])).chunk(2)
        return (up - down) / (2 * h)

    numeric = (4 * difference(STEPS[k] / 2) - difference(STEPS[k])) / 3    # Richardson
    ours = flux_and_jacobian[1][..., k]
    for star in range(len(STARS)):
        size = numeric[star].abs().max()
        assert size > 0
        # The slope along rv is that of the spectrum, not of the sum over the grid (`camera`).
        tolerance = 1e-4 if name == "rv" else 1e-5
        assert (ours[star] - numeric[star]).abs().max() < tolerance * size


def test_reverse_mode_agrees_with_the_forward_jacobian(model, flux_and_jacobian):
    theta = STARS.clone().requires_grad_()
    flux = model(theta)
    torch.testing.assert_close(flux.detach(), flux_and_jacobian[0], rtol=0, atol=1e-12)
    probe = torch.sin(torch.arange(flux.numel(), dtype=torch.float64)).reshape(flux.shape)
    (flux * probe).sum().backward()
    expected = (flux_and_jacobian[1] * probe.unsqueeze(-1)).sum(1)
    rv = FREE.index("rv")
    torch.testing.assert_close(theta.grad[:, rv], expected[:, rv], rtol=1e-4, atol=0)
    theta.grad[:, rv] = expected[:, rv]
    torch.testing.assert_close(theta.grad, expected, rtol=1e-8, atol=1e-14)


def test_a_tied_parameter_adds_its_derivative_to_its_masters(emulator64, flux_and_jacobian):
    tied = make(emulator64, free=[n for n in FREE if n != "ca_h"],
                parameters={"tied": {"ca_h": "mg_fe"}})
    theta = STARS[:, [i for i, n in enumerate(FREE) if n != "ca_h"]].clone()
    separate = make(emulator64)
    both = STARS.clone()
    both[:, FREE.index("ca_h")] = both[:, FREE.index("mg_fe")]
    (flux, ours), (expected, parts) = tied.jacobian(theta), separate.jacobian(both)
    torch.testing.assert_close(flux, expected, rtol=0, atol=1e-12)
    total = parts[..., FREE.index("mg_fe")] + parts[..., FREE.index("ca_h")]
    torch.testing.assert_close(ours[..., 4], total, rtol=0, atol=1e-11)


def test_a_batch_equals_its_stars_one_by_one(model, flux_and_jacobian):
    for star, flux, jacobian in zip(STARS, *flux_and_jacobian, strict=True):
        alone, derivatives = model.jacobian(star[None])
        torch.testing.assert_close(alone[0], flux, rtol=0, atol=1e-11)
        torch.testing.assert_close(derivatives[0], jacobian, rtol=1e-9, atol=1e-10)


def refined(monkeypatch, factor):
    """Divide the rest-frame grid by `factor` more than the resolution asks for."""
    monkeypatch.setattr("stellarfit.camera.refinement_for",
                        lambda e, r, **kw: factor * refinement_for(e, r, **kw))


@pytest.mark.parametrize("resolution", [8_000.0, 30_000.0, 60_000.0, 115_000.0])
def test_a_grid_twice_as_fine_changes_nothing_that_the_training_pixels_resolve(
    lines, monkeypatch, resolution
):
    theta, fluxes = STARS[:, [0, 1, 2, 3, 4, 6, 7]].clone(), []
    theta[:, 2] = 2.0                                     # lines 1.8 training pixels wide
    for factor in (1, 4):
        refined(monkeypatch, factor)
        fluxes.append(make(lines, free=(*FREE[:5], "rv", "vsini"), resolution=resolution)(theta))
    assert (fluxes[0] - fluxes[1]).abs().max() < 5e-4


@pytest.mark.parametrize("resolution", [30_000.0, 115_000.0])
def test_the_emulator_is_asked_at_its_training_pixels_alone(emulator64, resolution):
    model = make(emulator64, resolution=resolution, parameters={})
    nearest = np.abs(model.grid.numpy()[:, None] - emulator64.pixels).min(axis=1)
    assert nearest.max() < 1e-3 * emulator64.log_step * 5000.0


def test_refinement_follows_the_resolution(emulator64):
    assert [refinement_for(emulator64, r) for r in (2e3, 2e4, 6e4, 6.1e4, 1.15e5, 1e7)] == [
        1, 1, 1, 2, 2, 4]


def test_covered_pixels_do_not_depend_on_what_lies_beyond_the_range(emulator64):
    e = emulator64
    cut = Emulator(e.network, e.labels, e.domain, e.pixels[600:1000], e.medium, name="cut")
    low, high = cut.wavelength_range
    wide, narrow = (make(x, low - 2.0, high + 2.0, free=FREE[:7], rv_range=(-90.0, 50.0),
                         parameters={"fixed": {"vsini": 0.0}}) for x in (e, cut))
    covered = narrow.covers((-90.0, 50.0))
    assert wide.covers((-90.0, 50.0)).all()
    assert 0.5 < covered.mean() < 0.9
    with torch.no_grad():
        a, b = wide(STARS[:, :7]), narrow(STARS[:, :7])
    assert (a - b)[:, covered].abs().max() < 2e-6
    assert (a - b)[:, ~covered].abs().max() > 1e-2
    # No pixel is given away: the outermost uncovered ones reach over the end at some velocity.
    first, last = np.flatnonzero(covered)[[0, -1]]
    reach = narrow.cameras[0].spread.reach(30_000.0)
    shifts = log_shift(torch.tensor([-90.0, 50.0])).numpy()
    rest = np.log(narrow.arms[0].wavelength)
    assert rest[first - 1] - shifts[1] - reach < np.log(low)
    assert rest[last + 1] - shifts[0] + reach > np.log(high)


@pytest.mark.parametrize("rv", [-300.0, 0.03, 77.7])
def test_a_moving_star_is_the_star_at_rest_on_shifted_pixels(emulator64, rv):
    shift = log_shift(torch.tensor(rv, dtype=torch.float64)).item()
    free = ("teff", "logg", "vmic", "fe_h", "mg_fe", "ca_h", "rv", "vsini")
    moving = make(emulator64, free=free, rv_range=(-300.0, 300.0))
    rest = model_of(emulator64, moving.parameters, moving.arms[0].wavelength / np.exp(shift),
                        resolution=30_000.0, rv_range=(0.0, 0.0))
    theta = STARS[:, :8].clone()
    theta[:, 6], theta[:, 7] = rv, 9.0
    still = theta.clone()
    still[:, 6] = 0.0
    with torch.no_grad():
        torch.testing.assert_close(moving(theta), rest(still), rtol=0, atol=1e-6)


def test_a_very_sharp_instrument_sees_the_mean_over_its_pixels(lines):
    step, inside = lines.log_step, (lines.pixels > 5181) & (lines.pixels < 5184)
    free = ("teff", "logg", "vmic", "fe_h")
    parameters = make_parameters(lines.labels, lines.domain, free=free, resolution=1e6)
    model = model_of(lines, parameters, lines.pixels[inside], resolution=1e6,
                         rv_range=(0.0, 0.0))
    offsets = step * (np.arange(200) + 0.5) / 200 - 0.5 * step
    fine = np.exp(np.log(lines.pixels[inside])[:, None] + offsets).ravel()
    labels = model.labels(STARS[:, :4])
    mean = lines.flux(labels, torch.as_tensor(fine)).unflatten(1, (-1, 200)).mean(-1)
    assert (model(STARS[:, :4]) - mean).abs().max() < 2e-3


def test_broadening_preserves_the_equivalent_width_of_the_window(emulator64):
    def width(**fixed):
        m = make(emulator64, 5175.0, 5195.0, free=FREE[:6], parameters={"fixed": fixed})
        with torch.no_grad():
            missing = 1 - m(STARS[:1, :6])[0].numpy()
        taper = np.sin(np.linspace(0, np.pi, len(missing))) ** 4         # no edges to leak over
        return (missing * taper).sum()

    assert width(vsini=15.0) == pytest.approx(width(vsini=0.0), rel=2e-3)


def test_single_precision_model_is_close_to_the_double_one(emulator, model, flux_and_jacobian):
    flux, jacobian = make(emulator).jacobian(STARS)
    assert flux.dtype == torch.float32
    assert (flux.double() - flux_and_jacobian[0]).abs().max() < 3e-5
    size = flux_and_jacobian[1].abs().amax(dim=1)
    error = (jacobian.double() - flux_and_jacobian[1]).abs().amax(dim=1)
    assert (error / size).max() < 5e-3


def test_what_an_emulators_own_spectra_are_broadened_by_is_not_done_twice(lines):
    class Broadened(torch.nn.Module):
        """Lines as a spectrograph of R = 40,000 shows them."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def evaluate(self, scaled, wavelength, *, chunk=0):
            sigma = 1.0 / 40_000 / np.sqrt(8 * np.log(2))
            offsets = np.linspace(-5, 5, 101)
            weights = np.exp(-0.5 * offsets**2) / np.exp(-0.5 * offsets**2).sum()
            return sum(w * self.network.evaluate(scaled, wavelength * np.exp(sigma * x))
                       for x, w in zip(offsets, weights, strict=True))

    broad = Emulator(Broadened(lines.network), lines.labels, lines.domain, lines.pixels, "air",
                     provenance={"trained_on": {"resolution": 40_000.0}})
    free, theta = (*FREE[:5], "rv", "vsini"), STARS[:1, [0, 1, 2, 3, 4, 6, 7]].clone()
    theta[:, 5] = 10.0
    with torch.no_grad():
        sharp, ours = (make(e, free=free, resolution=20_000.0)(theta) for e in (lines, broad))
    # unresolved by the training pixels, the sharp lines are off by this themselves
    assert (sharp - ours).abs().max() < 1e-3
    with pytest.raises(ValueError, match=r"R = 40000: it cannot show .* R = 60000 sees"):
        make(broad, free=free, resolution=60_000.0)
