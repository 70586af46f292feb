"""Jitter, outliers and calibration: each mends what it is made for, and leaves the rest alone."""

from __future__ import annotations

import numpy as np
import pytest

import stellarfit
from stellarfit.calibration import load_calibration
from stellarfit.quality import Flag
from stellarfit.spectrum import Spectrum
from stellarfit.weighting import Weighting, most_likely

STAR = {"teff": 5600.0, "logg": 4.3, "vmic": 1.2, "fe_h": -0.2, "rv": 10.0}
FIXED = {"vmic": 1.2, "vsini": 0.0}
FREE = ["teff", "logg", "fe_h", "rv"]
LABELS = ("teff", "logg", "fe_h")


def fit(star, lines, **options):
    return stellarfit.fit(star, resolution=20_000, emulator=lines, free=FREE, fixed=FIXED,
                          **options)


def changed(star, flux) -> Spectrum:
    return Spectrum(star.wavelength, flux, ivar=star.ivar, medium=star.medium, name=star.name)


def pulls(result) -> np.ndarray:
    return np.array([(result.labels[n] - STAR[n]) / result.errors[n] for n in LABELS])


def test_jitter_is_what_the_noise_lacks() -> None:
    rng = np.random.default_rng(0)
    variance = rng.uniform(0.5, 2.0, 20_000)
    residual = rng.normal(size=20_000) * np.sqrt(variance + 1.5**2)
    for how in (Weighting(), Weighting(robust=False)):
        assert most_likely(residual[None], variance[None], how)[0] == pytest.approx(1.5, rel=0.03)
        quiet = rng.normal(size=20_000) * np.sqrt(0.8 * variance)
        assert most_likely(quiet[None], variance[None], how)[0] == 0.0
    assert most_likely(residual[None], variance[None], Weighting(jitter=False))[0] == 0.0


def test_jitter_and_outliers_are_told_apart() -> None:
    rng = np.random.default_rng(2)
    residual = rng.normal(size=20_000) * np.sqrt(1.0 + 2.0**2)
    hit = rng.random(20_000) < 0.04
    residual[hit] *= 10.0
    jitter, fraction, _ = most_likely(residual[None], np.ones((1, 20_000)), Weighting())
    assert jitter == pytest.approx(2.0, rel=0.03)
    assert fraction == pytest.approx(0.04, abs=0.005)


def test_outliers_lose_their_weight_and_good_pixels_keep_theirs() -> None:
    rng = np.random.default_rng(1)
    residual = rng.normal(size=2_000)
    residual[::50] += 30.0
    alone = Weighting(jitter=False)
    _, fraction, factor = most_likely(residual[None], np.ones((1, 2_000)), alone)
    assert fraction == pytest.approx(0.02, abs=0.01)
    assert (factor[0, ::50] < 0.02).all()
    assert np.median(factor) > 0.99
    _, none, clean = most_likely(rng.normal(size=(1, 2_000)), np.ones((1, 2_000)), alone)
    assert none < 0.005
    assert clean.mean() > 0.99


def test_errors_that_were_given_too_small_are_mended_by_the_jitter(lines, observe) -> None:
    plain, mended = [], []
    for seed in range(12):
        star = observe(lines, STAR, snr=60.0, seed=seed)
        boasting = Spectrum(star.wavelength, star.flux, ivar=9.0 * star.ivar, medium="air")
        plain.append(pulls(fit(boasting, lines, jitter=False, robust=False)))
        result = fit(boasting, lines)
        mended.append(pulls(result))
        assert result.provenance["jitter"] == pytest.approx(np.sqrt(8 / 9) / 60, rel=0.15)
        assert result.reduced_chi2 == pytest.approx(1.0, abs=0.05)
        assert result.flags & Flag.LARGE_JITTER
        assert result.flags & Flag.MODEL_LIMITED
    assert np.std(plain) > 2.0
    assert np.std(mended) == pytest.approx(1.0, abs=0.3)


def test_a_robust_fit_forgives_cosmic_rays_that_nobody_masked(lines, observe) -> None:
    star = observe(lines, STAR, snr=60.0, seed=5)
    rng = np.random.default_rng(6)
    hit = rng.choice(len(star), len(star) // 40, replace=False)
    flux = star.flux.copy()
    flux[hit] += rng.uniform(0.3, 2.0, len(hit)) * np.median(flux)
    plain = fit(changed(star, flux), lines, jitter=False, robust=False)
    robust = fit(changed(star, flux), lines)
    clean = fit(star, lines, robust=False)
    assert np.abs(pulls(plain)).max() > 4.0
    for name in LABELS:
        assert abs(robust.labels[name] - clean.labels[name]) < 1.0 * clean.errors[name]
    assert robust.provenance["outliers"] == pytest.approx(0.025, abs=0.02)
    same = fit(star, lines)
    assert same.labels["teff"] == pytest.approx(clean.labels["teff"],
                                                abs=0.5 * clean.errors["teff"])


@pytest.fixture(scope="module")
def wrong_physics(lines, observe):
    """A function: a star in whose spectrum two lines are not those of the model."""

    def make(values, seed=0, snr=300.0, **options):
        star = observe(lines, values, snr=snr, seed=seed, **options)
        rest = star.wavelength / (1.0 + values["rv"] / 299_792.458)
        missing = sum(0.15 * np.exp(-0.5 * ((rest - c) / 0.12) ** 2) for c in (5172.4, 5186.1))
        return changed(star, star.flux * (1.0 - missing))

    return make


def test_a_calibration_weighs_down_what_the_physics_gets_wrong(
    lines, wrong_physics, tmp_path
) -> None:
    sun = {"teff": 5772.0, "logg": 4.44, "vmic": 1.0, "fe_h": 0.0, "rv": -30.0}
    known = {n: sun[n] for n in ("teff", "logg", "vmic", "fe_h")}
    mask, taken_from = stellarfit.calibrate(wrong_physics(sun), labels=known, resolution=20_000,
                                            emulator=lines, free=("rv",))
    assert taken_from.rv == pytest.approx(-30.0, abs=0.2)
    at = np.abs(lines.pixels - 5172.4) < 0.05
    assert mask.residual[at].mean() == pytest.approx(-0.13, abs=0.04)
    loaded = load_calibration(mask.save(tmp_path / "sun.h5"))
    np.testing.assert_array_equal(loaded.residual, mask.residual)
    assert loaded.identity == mask.identity

    star = wrong_physics(STAR, seed=4)
    plain = fit(star, lines, jitter=False, robust=False)
    masked = fit(star, lines, calibration=tmp_path / "sun.h5")
    assert np.abs(pulls(plain)).max() > 5.0
    assert np.abs(pulls(masked)).max() < 3.0
    assert masked.provenance["calibration"] == mask.identity


def test_a_calibration_of_another_emulator_or_no_calibration_is_refused(
    lines, emulator, wrong_physics, tmp_path
) -> None:
    known = {n: STAR[n] for n in ("teff", "logg", "vmic", "fe_h")}
    mask, _ = stellarfit.calibrate(wrong_physics(STAR), labels=known, resolution=20_000,
                                   emulator=lines, free=("rv",))
    with pytest.raises(ValueError, match="not those of emulator"):
        mask.check(emulator)
    path = mask.save(tmp_path / "mask.h5")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable calibration"):
        load_calibration(path)
    with pytest.raises(FileNotFoundError, match="no calibration at"):
        load_calibration(tmp_path / "absent.h5")


def test_heavy_tails_do_not_stop_the_search_for_the_jitter() -> None:
    rng = np.random.default_rng(7)
    residual = np.where(rng.random(5_000) < 0.4, 50.0, 1.0) * rng.standard_normal(5_000)
    jitter, _, _ = most_likely(residual[None], np.ones((1, 5_000)), Weighting(robust=False))
    assert jitter == pytest.approx(np.sqrt(np.mean(residual**2) - 1.0), rel=1e-3)


def test_a_star_with_a_fifth_of_its_pixels_wrong_is_flagged(lines, observe) -> None:
    star = observe(lines, STAR, snr=100.0, seed=8)
    wrong = np.random.default_rng(9).random(len(star)) < 0.2
    result = fit(changed(star, np.where(wrong, 0.6, 1.0) * star.flux), lines)
    assert result.flags & Flag.MODEL_LIMITED
    assert result.flags & (Flag.MANY_OUTLIERS | Flag.LARGE_JITTER)
