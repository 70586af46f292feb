"""Rotation against Gray's kernel, a disk summed element by element, and what must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from stellarfit.constants import SPEED_OF_LIGHT
from stellarfit.rotation import rotate, transform, transform_and_slope

STEP = 1e-5
N = 2000
X = STEP * (np.arange(N) - N // 2)                        # ln(wavelength) from the centre
LINES = ((-2.3e-3, 0.7, 1.7e-5), (0.0, 0.5, 3e-5), (4.1e-5, 0.3, 2e-5), (1.9e-3, 0.9, 2.5e-5))


def spectrum(x):
    """Gaussian lines, all well resolved by the grid."""
    return 1.0 - sum(d * np.exp(-0.5 * ((x - c) / s) ** 2) for c, d, s in LINES)


FLUX = torch.as_tensor(spectrum(X))[None]


def rotated(flux, vsini, epsilon=0.6):
    vsini = torch.as_tensor(vsini, dtype=torch.float64).reshape(-1)
    return rotate(flux.expand(len(vsini), -1), vsini, log_step=STEP, epsilon=epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("phase", [0.0, 0.3, 1.9, 2.1, 6.5, 11.0, 60.0])
def test_transform_is_the_fourier_integral_of_grays_kernel(phase, epsilon):
    def kernel(t):
        return (2 * (1 - epsilon) * np.sqrt(1 - t**2) + 0.5 * np.pi * epsilon * (1 - t**2)) / (
            np.pi * (1 - epsilon / 3))

    expected, _ = quad(lambda u: kernel(np.sin(u)) * np.cos(u) * np.cos(phase * np.sin(u)),
                       -np.pi / 2, np.pi / 2, epsabs=1e-12, epsrel=1e-12, limit=400)
    ours = transform(torch.tensor([phase], dtype=torch.float64), epsilon)
    assert float(ours) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("epsilon", [0.0, 0.6, 1.0])
def test_it_is_smooth_and_its_slope_the_derivative_whoever_takes_it(epsilon):
    phase = torch.linspace(0.0, 30.0, 4001, dtype=torch.float64)
    ones, step = torch.ones_like(phase), float(phase[1])
    values = transform(phase, epsilon)
    forward = torch.func.jvp(lambda p: transform(p, epsilon), (phase,), (ones,))[1]
    reverse = torch.func.grad(lambda p: transform(p, epsilon).sum())(phase)
    each = torch.func.vmap(lambda p: torch.func.grad(lambda q: transform(q, epsilon))(p))(phase)
    for other in (forward, reverse, each):
        torch.testing.assert_close(other, transform_and_slope(phase, epsilon)[1], rtol=0,
                                   atol=1e-12)
    differences = (values[2:] - values[:-2]) / (2 * step)
    torch.testing.assert_close(differences, forward[1:-1], rtol=0, atol=2e-5)
    twice = torch.func.grad(lambda p: torch.func.grad(
        lambda q: transform(q, epsilon).sum())(p).sum())(phase)
    torch.testing.assert_close((forward[2:] - forward[:-2]) / (2 * step), twice[1:-1], rtol=0,
                               atol=2e-5)


def test_no_rotation_changes_nothing_and_its_first_derivative_vanishes():
    vsini = torch.zeros(1, dtype=torch.float64)
    flux, slope = torch.func.jvp(lambda v: rotate(FLUX, v, log_step=STEP), (vsini,),
                                 (torch.ones_like(vsini),))
    torch.testing.assert_close(flux, FLUX, rtol=0, atol=1e-14)
    assert slope.abs().max() < 1e-14


def test_rotation_far_below_a_pixel_is_the_second_derivative_times_the_kernels_variance():
    vsini, epsilon = 0.05, 0.6
    variance = ((1 - epsilon) / 4 + (2 * epsilon / 3) / 5) / (1 - epsilon / 3)
    curvature = sum(-d * ((X - c) ** 2 / s**4 - s**-2) * np.exp(-0.5 * ((X - c) / s) ** 2)
                    for c, d, s in LINES)
    expected = 0.5 * variance * (vsini / SPEED_OF_LIGHT) ** 2 * curvature
    change = (rotated(FLUX, [vsini]) - FLUX)[0].numpy()
    np.testing.assert_allclose(change, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("vsini", [0.01, 1.0, 10.0, 60.0])
def test_rotation_preserves_equivalent_width(vsini):
    inside = np.abs(X - LINES[3][0]) < 1.5 * vsini / SPEED_OF_LIGHT + 12 * LINES[3][2]
    single = torch.as_tensor(1 - LINES[3][1] * np.exp(-0.5 * ((X - LINES[3][0]) / LINES[3][2])**2))
    before, after = (float((1 - f[..., inside]).sum()) * STEP
                     for f in (single, rotated(single[None], [vsini])))
    assert after == pytest.approx(before, rel=1e-5)


def test_rotation_leaves_a_continuum_alone():
    flat = torch.ones(1, N, dtype=torch.float64)
    torch.testing.assert_close(rotated(flat, [75.0]), flat, rtol=0, atol=1e-13)


@pytest.mark.parametrize("epsilon", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("vsini", [1.0, 10.0, 60.0])
def test_rotation_agrees_with_a_disk_summed_over_its_surface_elements(vsini, epsilon):
    n = 160
    radius = np.sqrt((np.arange(n) + 0.5) / n)             # rings of equal area
    angle = np.pi * (np.arange(n) + 0.5) / n               # half a turn: the rest mirrors it
    x = np.outer(radius, np.cos(angle)).ravel()
    mu = np.repeat(np.sqrt(1 - radius**2), n)
    weight = 1 - epsilon + epsilon * mu
    some = np.arange(700, 1300, 3)
    brute = np.zeros(len(some))
    for part in np.array_split(np.arange(len(x)), 40):
        shifted = X[some, None] - vsini / SPEED_OF_LIGHT * x[part]
        brute += spectrum(shifted) @ weight[part]
    ours = rotated(FLUX, [vsini], epsilon)[0, some].numpy()
    np.testing.assert_allclose(ours, brute / weight.sum(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("vsini", [0.02, 3.0, 40.0])
def test_gradients_in_vsini_epsilon_and_flux_equal_finite_differences(vsini):
    x = (torch.tensor([vsini], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))

    def f(vsini, epsilon):
        return rotate(FLUX, vsini, log_step=STEP, epsilon=epsilon)

    for k, h in ((0, 1e-3 * vsini), (1, 1e-3)):
        direction = [torch.zeros(1, dtype=torch.float64) for _ in x]
        direction[k] += 1.0
        _, forward = torch.func.jvp(f, x, tuple(direction))

        def difference(h, direction=direction):
            ends = [f(*(a + s * h * d for a, d in zip(x, direction, strict=True)))
                    for s in (1, -1)]
            return (ends[0] - ends[1]) / (2 * h)

        numeric = (4 * difference(h / 2) - difference(h)) / 3          # Richardson
        assert (forward - numeric).abs().max() < 1e-5 * numeric.abs().max()
        inputs = [a.clone().requires_grad_() for a in x]
        probe = torch.sin(torch.arange(N, dtype=torch.float64))
        (f(*inputs) * probe).sum().backward()
        assert float(inputs[k].grad) == pytest.approx(float((forward * probe).sum()), rel=1e-9)


def test_rotation_is_linear_in_the_flux_so_that_tangents_pass_like_fluxes():
    vsini = torch.tensor([5.0, 20.0], dtype=torch.float64)
    stack = torch.as_tensor(np.random.default_rng(1).normal(size=(3, 2, N)))
    together = rotate(stack, vsini, log_step=STEP)
    for one, alone in zip(together, stack, strict=True):
        torch.testing.assert_close(one, rotate(alone, vsini, log_step=STEP))
    torch.testing.assert_close(together.sum(0), rotate(stack.sum(0), vsini, log_step=STEP))


def test_a_batch_of_stars_rotates_like_each_of_them():
    vsini, epsilon = torch.tensor([0.0, 2.0, 35.0, 110.0]).double(), torch.tensor([0.6, 0, 1, 0.3])
    batch = rotate(FLUX.expand(4, -1), vsini, log_step=STEP, epsilon=epsilon)
    for v, e, row in zip(vsini, epsilon, batch, strict=True):
        alone = rotate(FLUX, v[None], log_step=STEP, epsilon=e[None])[0]
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-13)


def test_single_precision_stays_single_and_close():
    single = rotated(FLUX.float(), [20.0])
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), rotated(FLUX, [20.0]), rtol=0, atol=2e-6)
