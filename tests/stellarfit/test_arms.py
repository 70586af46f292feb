"""Several arms, orders or exposures of one star, fitted together."""

from __future__ import annotations

import numpy as np
import pytest

import stellarfit
from stellarfit import load_result
from stellarfit.quality import Flag
from stellarfit.spectrum import Spectrum

STAR = {"teff": 5600.0, "logg": 4.3, "vmic": 1.2, "fe_h": -0.2, "rv": 10.0}
FIXED = {"vmic": 1.2, "vsini": 0.0}
FREE = ["teff", "logg", "fe_h", "rv"]
LABELS = ("teff", "logg", "fe_h")


@pytest.fixture(scope="module")
def arms(lines, observe):
    """Two arms of the same star, each with its resolution."""
    def make(low, high, resolution, seed, rv=10.0):
        wavelength = low * np.exp(np.arange(0.0, np.log(high / low), 0.4 / resolution))
        return observe(lines, {**STAR, "rv": rv}, wavelength=wavelength, resolution=resolution,
                       snr=80.0, seed=seed)

    return {"blue": make(5162.0, 5179.0, 20_000.0, 1), "red": make(5181.0, 5198.0, 30_000.0, 2),
            "again": make(5181.0, 5198.0, 30_000.0, 3, rv=-25.0)}


RESOLUTION = {"blue": 20_000.0, "red": 30_000.0}


@pytest.fixture(scope="module")
def joint(arms, lines):
    return stellarfit.fit({k: arms[k] for k in RESOLUTION}, resolution=RESOLUTION, emulator=lines,
                          free=FREE, fixed=FIXED)


def test_two_arms_together_know_more_than_each_alone(arms, joint, lines) -> None:
    alone = [stellarfit.fit(arms[k], resolution=RESOLUTION[k], emulator=lines, free=FREE,
                            fixed=FIXED) for k in RESOLUTION]
    assert joint.converged
    for name in (*LABELS, "rv"):
        assert abs(joint.labels[name] - STAR[name]) < 3.5 * joint.errors[name]
        assert joint.errors[name] < 1.02 * min(a.errors[name] for a in alone)
    assert joint.reduced_chi2 == pytest.approx(1.0, abs=0.2)


def test_each_arm_has_a_continuum_of_its_own(arms, joint) -> None:
    blue, red = joint.by_arm()
    assert (blue.name, red.name) == ("blue", "red")
    assert len(joint.coefficients) == 8
    assert len(blue.model) == len(arms["blue"])
    for arm in (blue, red):
        assert np.std(((arm.flux - arm.model) * np.sqrt(arm.spectrum.ivar))[arm.used]) < 1.2


def test_exposures_at_other_velocities_are_fitted_each_with_its_own(arms, lines) -> None:
    both = [arms["red"], arms["again"]]
    result = stellarfit.fit(both, resolution=30_000.0, emulator=lines,
                            free=[*FREE[:3], "rv_1", "rv_2"], fixed=FIXED)
    assert result.labels["rv_1"] == pytest.approx(10.0, abs=4 * result.errors["rv_1"])
    assert result.labels["rv_2"] == pytest.approx(-25.0, abs=4 * result.errors["rv_2"])
    assert result.rvs.tolist() == [result.labels["rv_1"], result.labels["rv_2"]]
    assert result.rv == pytest.approx(-7.5, abs=0.5)
    assert "velocity, positive receding, of arm 2" in result.to_table()["rv_2"].description


def test_a_resolution_may_be_fitted_in_one_arm(arms, lines) -> None:
    result = stellarfit.fit({k: arms[k] for k in RESOLUTION},
                            resolution={"blue": 20_000.0, "red": 26_000.0}, emulator=lines,
                            free=[*FREE, "resolution_red"], fixed=FIXED)
    assert result.labels["resolution_red"] == pytest.approx(
        30_000.0, abs=4 * result.errors["resolution_red"])


def test_an_arm_outside_the_emulators_range_is_reported_not_fatal(arms, joint, lines) -> None:
    beyond = Spectrum(np.linspace(6000, 6100, 500), np.ones(500), ivar=np.ones(500), medium="air")
    result = stellarfit.fit({**{k: arms[k] for k in RESOLUTION}, "ir": beyond},
                            resolution={**RESOLUTION, "ir": 1e4}, emulator=lines, free=FREE,
                            fixed=FIXED)
    assert result.labels == joint.labels
    assert result.flags & Flag.ARM_LEFT_OUT
    assert "nothing to fit" in result.provenance["left_out"]["ir"]
    assert "arm ir left out" in result.summary()
    with pytest.raises(ValueError, match=r"none of the arms can be fitted: 1: .*; 2: "):
        stellarfit.fit([beyond, beyond], resolution=1e4, emulator=lines)


def test_what_is_saved_of_arms_comes_back(joint, tmp_path) -> None:
    loaded = load_result(joint.save(tmp_path / "both.h5"))
    assert loaded.summary() == joint.summary()
    for one, other in zip(loaded.by_arm(), joint.by_arm(), strict=True):
        np.testing.assert_array_equal(one.model, other.model)
        np.testing.assert_array_equal(one.wavelength, other.wavelength)
    np.testing.assert_array_equal(loaded.full_covariance, joint.full_covariance)


def test_a_picture_shows_every_arm(joint, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    assert joint.plot(tmp_path / "both.png").stat().st_size > 10_000


@pytest.mark.parametrize(("options", "sentence"), [
    ({"resolution": [2e4]}, "got 1 of resolution for 2 spectra"),
    ({"resolution": {"1": 2e4, "3": 3e4}}, "resolution is given for '3'; the arms are '1', '2'"),
    ({"resolution": 2e4, "free": ["teff", "rv_3"]}, "unknown parameter 'rv_3'"),
    ({"resolution": 2e4, "free": [*FREE, "rv_1", "rv_2"], "fixed": FIXED},
     "rv: free, but every arm has one of its own"),
])
def test_arms_that_do_not_fit_what_is_said_of_them_are_refused(
    arms, lines, options, sentence
) -> None:
    with pytest.raises(ValueError, match=sentence):
        stellarfit.fit([arms["blue"], arms["red"]], emulator=lines, **options)


def test_names_of_arms_must_make_parameters(arms, lines) -> None:
    with pytest.raises(ValueError, match="an arm is called 'b-1'"):
        stellarfit.fit({"b-1": arms["blue"], "r": arms["red"]}, resolution=2e4, emulator=lines)
    with pytest.raises(ValueError, match="no spectrum, or no arm with a good pixel"):
        stellarfit.fit([], resolution=2e4, emulator=lines)
