"""The gradient sampler at the edges of its prior."""

from __future__ import annotations

import numpy as np
import pytest

from tests.stellarfit.posterior.chains import OPTIONS, STAR, draw


def test_a_gradient_sampler_knows_the_limits_of_a_parameter(star, lines) -> None:
    pytest.importorskip("pyro")
    found = draw(star, lines, sampler="nuts", walkers=None, chains=2, max_steps=200,
                 free=["fe_h", "ca_h"], fixed={**OPTIONS["fixed"], "teff": 5300.0},
                 priors={"fe_h": "uniform:-2:-0.4"})
    assert found.diagnosis.divergences == 0
    assert np.isfinite(found.log_probability).all()
    assert -0.41 < found.of("fe_h").max() <= -0.4
    calcium = found.of("ca_h")  # of which the data say nothing: uniform in its domain
    own, sigma = 4.0 / np.sqrt(found.diagnosis.ess.min()), (1.4 + 2.9) / np.sqrt(12.0)
    assert abs(calcium.mean() - 0.5 * (1.4 - 2.9)) < own * sigma
    assert calcium.std() == pytest.approx(sigma, rel=own)


@pytest.fixture(scope="module")
def across(lines, observe):
    """A function that runs chains across a limit of two parameters together."""
    pytest.importorskip("pyro")
    rich = observe(lines, {**STAR, "mg_fe": 0.4}, snr=30.0, seed=3)

    def run(steps):
        return draw(rich, lines, sampler="nuts", walkers=None, max_steps=steps,
                    free=["fe_h", "mg_h"], fixed={**OPTIONS["fixed"], "teff": 5300.0})

    return run


def test_a_gradient_sampler_leaves_out_what_it_passed_beyond_a_limit(across) -> None:
    found = across(50)
    assert np.isneginf(found.log_probability).any()
    assert 20 < len(found.samples) < 100
    assert 0.39 < (found.of("mg_h") - found.of("fe_h")).max() <= 0.4


def test_what_lies_beyond_a_limit_is_in_no_output(across, tmp_path) -> None:
    pytest.importorskip("arviz_base")
    values = across(20).to_arviz()["posterior"]
    assert values["mg_h"].shape[0] == 2
    assert 0 < values["mg_h"].shape[1] < 20
    assert np.asarray(values["mg_h"] - values["fe_h"]).max() <= 0.4
