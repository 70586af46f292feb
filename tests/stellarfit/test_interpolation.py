"""Interpolation between training pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stellarfit.interpolation import EDGE, refine


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_samples_are_kept_and_a_resolved_line_is_exact_between_them(factor):
    x = np.arange(-40.0, 41.0)
    fine = np.linspace(-40.0, 40.0, factor * 80 + 1)

    def line(x):
        return 1.0 - 0.8 * np.exp(-0.5 * ((x - 0.3) / 1.5) ** 2)

    between = refine(torch.as_tensor(line(x)).expand(2, 3, -1), factor)
    assert between.shape == (2, 3, len(fine))
    np.testing.assert_allclose(between[1, 2, ::factor], line(x), atol=1e-12)
    np.testing.assert_allclose(between[0, 0], line(fine), atol=1e-4)


def test_the_continuum_stays_at_one_up_to_the_ends():
    np.testing.assert_allclose(refine(torch.ones(3, 2, 12), 4), 1.0, atol=1e-6)


def test_an_end_in_mid_line_disturbs_few_pixels():
    x = np.arange(0.0, 81.0)
    fine = np.linspace(0.0, 80.0, 161)

    def line(x):
        return 1.0 - 0.5 * np.exp(-0.5 * ((x + 2.0) / 4.0) ** 2)

    error = np.abs(refine(torch.as_tensor(line(x)), 2).numpy() - line(fine))
    assert error[2 * EDGE:-2 * EDGE].max() < 5e-3
