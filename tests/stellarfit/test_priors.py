"""Priors: colours give the temperatures that their paper gives, text says what it means."""

from __future__ import annotations

import numpy as np
import pytest

import stellarfit
from stellarfit.priors import RELATIONS, Colour, Gaussian, Uniform, as_prior

STAR = {"teff": 5600.0, "logg": 4.3, "vmic": 1.2, "fe_h": -0.2, "rv": 10.0}
FIXED = {"vmic": 1.2, "vsini": 0.0}
FREE = ["teff", "logg", "fe_h", "rv"]


def test_the_sun_has_its_temperature_from_its_colour() -> None:
    # Casagrande & VandenBerg 2018, MNRAS 479, L102: the Sun's BP - RP is 0.82
    coefficients, value, sigma = Colour(0.82, 0.0).linearised("teff", {"logg": 4.44, "fe_h": 0.0})
    assert value == pytest.approx(5772.0, abs=2 * sigma)
    assert sigma == 61.0
    assert coefficients["teff"] == 1.0


@pytest.mark.parametrize("giant", [False, True])
def test_slopes_of_a_relation_are_its_derivatives(giant: bool) -> None:
    relation = RELATIONS["bp_rp"][giant]
    by_colour, by_iron = relation.slopes(0.9, -0.7)
    h = 1e-5
    assert by_colour == pytest.approx(
        (relation.temperature(0.9 + h, -0.7) - relation.temperature(0.9 - h, -0.7)) / (2 * h),
        rel=1e-6)
    assert by_iron == pytest.approx(
        (relation.temperature(0.9, -0.7 + h) - relation.temperature(0.9, -0.7 - h)) / (2 * h),
        rel=1e-6)


def test_text_is_a_prior() -> None:
    assert as_prior("gaussian:4.4:0.1") == Gaussian(4.4, 0.1)
    assert as_prior("uniform:-1:0.5") == Uniform(-1.0, 0.5)
    assert as_prior("bp_rp:0.82:0.02") == Colour(0.82, 0.02)
    for wrong in ("4.4", "gaussian:4.4", "normal:1:2", "gaussian:a:b", "uniform:1:2:3"):
        with pytest.raises(ValueError, match="is no prior; expected gaussian:MEAN:SIGMA"):
            as_prior(wrong)


@pytest.mark.parametrize("make", [
    lambda: Gaussian(1.0, 0.0), lambda: Gaussian(np.nan, 1.0), lambda: Uniform(1.0, 1.0),
    lambda: Colour(9.0, 0.1), lambda: Colour(0.8, -1.0), lambda: Colour(0.8, 0.1, "v_k"),
])
def test_numbers_that_make_no_prior_are_refused(make) -> None:
    with pytest.raises(ValueError):
        make()


@pytest.fixture(scope="module")
def star(lines, observe):
    return observe(lines, STAR, snr=100.0, seed=3)


def fit(star, lines, **priors):
    return stellarfit.fit(star, resolution=20_000, emulator=lines, free=FREE, fixed=FIXED,
                          priors=priors)


def test_a_sharp_prior_wins_and_a_vague_one_changes_nothing(star, lines) -> None:
    free = fit(star, lines)
    sharp = fit(star, lines, logg=Gaussian(4.0, 1e-3))
    vague = fit(star, lines, logg=Gaussian(4.0, 100.0))
    assert sharp.labels["logg"] == pytest.approx(4.0, abs=5e-3)
    assert sharp.errors["logg"] == pytest.approx(1e-3, rel=0.05)
    assert vague.labels["teff"] == pytest.approx(free.labels["teff"], abs=0.1 * free.errors["teff"])


def test_a_prior_combines_with_the_spectrum_as_two_measurements_do(star, lines) -> None:
    alone = fit(star, lines)
    value, error = alone.labels["logg"], alone.errors["logg"]
    both = fit(star, lines, logg=Gaussian(value + error, error))
    assert both.labels["logg"] == pytest.approx(value + 0.5 * error, abs=0.1 * error)
    assert both.errors["logg"] == pytest.approx(error / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("how", [
    pytest.param({"emulator_error": False, "jitter": False, "robust": False}, id="noise as given"),
    pytest.param({"method": "adam"}, id="adam"),
])
def test_a_prior_counts_however_stars_are_fitted(star, lines, how) -> None:
    free = fit(star, lines)
    value = free.labels["logg"] - 0.5
    held = stellarfit.fit(star, resolution=20_000, emulator=lines, free=FREE, fixed=FIXED,
                          priors={"logg": Gaussian(value, 1e-4)}, **how)
    assert held.labels["logg"] == pytest.approx(value, abs=1e-3)


def test_a_uniform_prior_is_a_limit(star, lines) -> None:
    result = fit(star, lines, teff=Uniform(4500.0, 5000.0))
    assert 4500.0 <= result.labels["teff"] <= 5000.1
    assert "teff" in result.provenance["at_limit"]


def test_a_colour_moves_the_temperature_towards_its_own(star, lines) -> None:
    free, coloured = fit(star, lines), fit(star, lines, teff="bp_rp:0.70:0.001")
    assert free.labels["teff"] < coloured.labels["teff"]
    assert coloured.errors["teff"] < free.errors["teff"]


@pytest.mark.parametrize(("priors", "sentence"), [
    ({"vmic": Gaussian(1.0, 0.1)}, "vmic does not move in this fit"),
    ({"tef": Gaussian(1.0, 0.1)}, "unknown parameter 'tef'"),
    ({"teff": Uniform(8000.0, 9000.0)}, "the priors on teff leave no point"),
    ({"logg": "bp_rp:0.8:0.1"}, "a colour is a prior on teff, not on logg"),
])
def test_priors_that_cannot_be_used_are_refused(star, lines, priors, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        fit(star, lines, **priors)
