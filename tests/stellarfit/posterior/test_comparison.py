"""The fit's Gaussian against samples, in words."""

from __future__ import annotations

import re

import numpy as np
import pytest

import stellarfit
from stellarfit import compare
from tests.stellarfit.posterior.chains import OPTIONS, STAR, draw


def test_comparison_says_what_differs(posterior) -> None:
    from dataclasses import replace

    fit = posterior.fit
    shifted = replace(fit, values=fit.values - np.sqrt(np.diag(fit.covariance)),
                      covariance=0.25 * fit.covariance)
    found = compare(posterior, shifted)
    assert not found.agree
    assert "too low" in found.differences[0].words
    assert re.search(r"its error is (4[5-9]|5[0-5]) % too small", found.differences[0].words)
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(posterior, replace(fit, names=("a", "b")))
    with pytest.raises(ValueError, match="expected a Posterior and a FitResult"):
        compare(posterior, 3)


def test_comparison_with_another_star_is_refused(posterior, lines, observe) -> None:
    other = stellarfit.fit(observe(lines, STAR, snr=30.0, seed=4), emulator=lines, **OPTIONS)
    with pytest.raises(ValueError, match="to other fluxes than"):
        compare(posterior, other)


def test_comparison_of_what_has_not_converged_judges_nothing(star, lines) -> None:
    found = compare(draw(star, lines, max_steps=20))
    assert not found.agree
    assert "agree" not in repr(found)
    assert "no judgement" in repr(found)


def test_comparison_leaves_blank_what_a_fit_does_not_give(posterior) -> None:
    from dataclasses import replace

    blind = replace(posterior.fit, covariance=np.diag([np.inf, 0.01]))
    found = compare(posterior, blind)
    assert np.isnan(found.differences[0].width)
    assert "nan" not in repr(found)
    jittered = replace(posterior, chain=np.concatenate(
        [posterior.chain, posterior.chain[..., :1]], axis=-1), diagnosis=replace(
            posterior.diagnosis, ess=np.append(posterior.diagnosis.ess, 400.0)))
    assert "not free in the fit: jitter" in repr(compare(jittered))
