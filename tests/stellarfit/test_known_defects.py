"""What users of other fitters reported, and readers found in their code: none of it here.

Each test names the package and, where there is one, the issue.  Some defects are caught by tests
of their own elsewhere: outliers of the noise model (`test_noise`, `test_emulator_error`), errors
as the scatter of repeated observations (`test_optimize`), priors (`test_priors`), resolution per
arm (`test_arms`), zeroed rows of resolution matrices (`test_resolution_matrix`), verdicts on
chains (`test_sampling`).
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from astropy.io import fits
from click.testing import CliRunner

import stellarfit
from emulators import Emulator
from stellarfit.cli import main
from stellarfit.continuum import Chebyshev
from stellarfit.noise import Noise
from stellarfit.posterior.density import Density
from stellarfit.preparing import prepare
from stellarfit.quality import Flag
from stellarfit.spectrum import Spectrum

STAR = {"teff": 5600.0, "logg": 4.3, "vmic": 1.2, "fe_h": -0.2, "rv": 10.0}
FIXED = {"vmic": 1.2, "vsini": 0.0}
FREE = ["teff", "logg", "fe_h", "rv"]


@pytest.fixture(scope="module")
def star(lines, observe) -> Spectrum:
    return observe(lines, STAR, snr=100.0, seed=11)


def fit(star, lines, **options):
    return stellarfit.fit(star, **{"resolution": 20_000, "emulator": lines, "free": FREE,
                                   "fixed": FIXED, **options})


def same(one, other, within=0.05) -> bool:
    return all(abs(one.labels[n] - other.labels[n]) < within * one.errors[n] for n in FREE)


def test_emulator_errors_do_not_swallow_the_spectrum() -> None:
    # Starfish #127, #138, #148, #154: a covariance where its inverse belongs made posteriors flat
    modes = torch.full((1, 100, 1), 0.01, dtype=torch.float64)
    noise = Noise(torch.full((1, 100), 100.0, dtype=torch.float64)).with_modes(modes)
    column = torch.sin(torch.arange(100, dtype=torch.float64))[None, :, None]
    with_modes, without = (float((n.whiten(column) ** 2).sum())
                           for n in (noise, Noise(noise.weight)))
    assert 0.9 * without < with_modes <= without


def test_errors_that_repeat_each_other_do_not_break_the_algebra() -> None:
    # Starfish #26, #85: Cholesky of a singular covariance
    mode = torch.ones(1, 50, 1, dtype=torch.float64)
    noise = Noise(torch.ones(1, 50, dtype=torch.float64)).with_modes(torch.cat([mode] * 70, dim=2))
    white = noise.whiten(mode)
    assert torch.isfinite(white).all()
    assert float((white**2).sum()) == pytest.approx(50.0 / (1.0 + 70.0 * 50.0), rel=1e-9)


def test_a_continuum_may_come_in_chunks(star, lines) -> None:
    # Starfish #74
    step = np.where(star.wavelength < 5180.0, 1.0, 1.4)
    chunky = Spectrum(star.wavelength, step * star.flux, ivar=star.ivar / step**2, medium="air")
    result = fit(chunky, lines, continuum=Chebyshev(2, breaks=(5180.0,)))
    assert result.reduced_chi2 == pytest.approx(1.0, abs=0.2)
    assert len(result.coefficients) == 6
    assert fit(chunky, lines, jitter=False, robust=False).reduced_chi2 > 10.0


def test_a_star_outside_the_domain_is_flagged_not_refused(lines, observe) -> None:
    # Starfish #149
    cool = observe(lines, {**STAR, "teff": 4050.0}, snr=100.0)
    deeper = Spectrum(cool.wavelength, cool.flux * (1 - 0.3 * (1 - cool.flux / cool.flux.max())),
                      ivar=cool.ivar, medium="air")
    assert fit(deeper, lines).flags & (Flag.EDGE_OF_DOMAIN | Flag.POOR_FIT | Flag.MODEL_LIMITED)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_left_out_not_perfect(star, lines, value) -> None:
    # PayneOptuna scores them 0; PySME's nan_to_num makes them fit; Korg #363
    flux = star.flux.copy()
    flux[40:80] = value
    holed = fit(Spectrum(star.wavelength, flux, ivar=star.ivar, medium="air"), lines)
    masked = fit(Spectrum(star.wavelength, star.flux, ivar=star.ivar, medium="air",
                          mask=np.isin(np.arange(len(star)), np.arange(40, 80))), lines)
    assert holed.dof == masked.dof == fit(star, lines).dof - 40
    assert same(holed, masked)


def test_a_correlation_is_a_covariance_over_its_sigmas(star, lines) -> None:
    # astra: corrcoef(covariance) was written as rho
    result = fit(star, lines)
    i, j = FREE.index("teff"), FREE.index("fe_h")
    rho = result.covariance[i, j] / result.errors["teff"] / result.errors["fe_h"]
    assert result.correlation[i, j] == pytest.approx(rho)
    np.testing.assert_allclose(np.diag(result.correlation), 1.0)


def test_velocity_and_rotation_are_part_of_the_covariance(lines, observe) -> None:
    # rvspecfit's Hessian holds them fixed, and VSINI_ERR is promised but not written
    turning = observe(lines, {**STAR, "vsini": 15.0}, snr=60.0)
    free = fit(turning, lines, free=[*FREE, "vsini"], fixed={"vmic": 1.2})
    held = fit(turning, lines, free=FREE[:3], fixed={"vmic": 1.2, "vsini": 15.0, "rv": 10.0})
    assert abs(free.correlation[FREE.index("fe_h"), -1]) > 0.05
    assert free.errors["fe_h"] > held.errors["fe_h"]
    assert np.isfinite(free.to_table()["e_vsini"][0])


def test_any_label_of_an_emulator_may_be_fitted(star, lines) -> None:
    # rvspecfit: a hard-coded dictionary of steps
    names = tuple("spot_filling" if n == "vmic" else n for n in lines.labels.names)
    network, labels = lines.network, type(lines.labels)(
        names, lines.labels.units, lines.labels.low, lines.labels.high)

    class Renamed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def evaluate(self, scaled, wavelength, *, chunk=0):
            return self.network.evaluate(scaled, wavelength)

    other = Emulator(Renamed(), labels, lines.domain, lines.pixels, "air", name="spots")
    result = fit(star, other, free=[*FREE, "spot_filling"], fixed={"vsini": 0.0})
    assert abs(result.labels["spot_filling"] - 1.2) < 5 * result.errors["spot_filling"]


def test_a_mask_is_honoured_in_the_likelihood(star, lines) -> None:
    # rvspecfit's badmask does not reach it
    bad = np.zeros(len(star), dtype=bool)
    bad[100:130] = True
    poisoned = np.where(bad, 1e6, star.flux)
    one, other = (fit(Spectrum(star.wavelength, f, ivar=star.ivar, mask=bad, medium="air"), lines)
                  for f in (star.flux, poisoned))
    assert one.chi2 == pytest.approx(other.chi2, rel=1e-6)
    assert same(one, other, within=1e-3)


def test_a_dead_fibre_costs_its_own_row_alone(lines, observe, tmp_path) -> None:
    # rvspecfit: one exception loses the file, and rows after a dead fibre are misindexed
    wavelength = np.arange(5166.0, 5196.0, 0.3)
    band = np.array([0.02, 0.2, 0.56, 0.2, 0.02])[:, None] * np.ones((5, len(wavelength)))
    temperatures = (5200.0, 5600.0, 6200.0)
    flux = [observe(lines, {**STAR, "teff": t}, wavelength=wavelength, resolution=8_000.0,
                    snr=200.0, seed=i).flux for i, t in enumerate(temperatures)]
    ivar = np.full((3, len(wavelength)), (200.0 / 1200.0) ** 2)
    ivar[1] = 0.0
    table = fits.BinTableHDU.from_columns(
        [fits.Column("TARGETID", "K", array=np.array([7, 8, 9]))], name="FIBERMAP")
    images = [fits.ImageHDU(np.asarray(a, dtype="f4"), name=f"B_{k}") for k, a in (
        ("WAVELENGTH", wavelength), ("FLUX", flux), ("IVAR", ivar),
        ("RESOLUTION", np.array([band] * 3)))]
    fits.HDUList([fits.PrimaryHDU(), table, *images]).writeto(tmp_path / "coadd.fits")
    done = CliRunner().invoke(main, [
        "fit", str(tmp_path / "coadd.fits"), "--free", "teff,fe_h,rv", "--fix", "logg=4.3", "--fix",
        "vmic=1.2", "--fix", "vsini=0", "--json", "--no-plot", "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == ["coadd-7", "coadd-8", "coadd-9"]
    assert "no arm with a good pixel" in rows["coadd-8"]["error"]
    assert "error" not in rows["coadd-7"]
    assert "error" not in rows["coadd-9"]
    assert {p.name for p in (tmp_path / "out").glob("*.h5")} == {"coadd-7.h5", "coadd-9.h5"}


def test_what_the_caller_gives_is_left_as_it_was(star, lines) -> None:
    # The_Payne changes its caller's errors
    given = star.wavelength.copy(), star.flux.copy(), star.ivar.copy()
    arrays = tuple(a.copy() for a in given)
    fit(arrays[0], lines, flux=arrays[1], ivar=arrays[2], medium="air", robust=True, jitter=True)
    for before, after in zip(given, arrays, strict=True):
        np.testing.assert_array_equal(before, after)


def test_users_bring_their_own_wavelengths(lines, observe) -> None:
    # The_Payne #6
    odd = np.sort(np.random.default_rng(0).uniform(5164.0, 5196.0, 700))
    odd = odd[np.concatenate([[True], np.diff(odd) > 0.01])]
    result = fit(observe(lines, STAR, wavelength=odd, snr=100.0, seed=4), lines)
    for name in FREE:
        assert abs(result.labels[name] - STAR[name]) < 4 * result.errors[name]


@pytest.mark.parametrize("what", ["vsini", "vmac"])
def test_broadening_does_not_stick_at_zero(lines, observe, what) -> None:
    # doppler #3
    still = fit(observe(lines, STAR, snr=200.0), lines, free=[*FREE, what],
                fixed={"vmic": 1.2, **({"vsini": 0.0} if what == "vmac" else {})})
    broad = observe(lines, {**STAR, what: 9.0}, snr=200.0, seed=2)
    again = fit(broad, lines, start=still, free=[*FREE, what],
                fixed={"vmic": 1.2, **({"vsini": 0.0} if what == "vmac" else {})})
    assert again.labels[what] == pytest.approx(9.0, abs=max(0.3, 4 * again.errors[what]))


def test_a_likelihood_that_is_not_a_number_is_none(star, lines) -> None:
    # emcee #415: NaN kills the run
    problem = prepare([star], resolution=20_000, emulator=lines, free=FREE, fixed=FIXED)[0]
    blown = problem.data.flux.clone()
    blown[0, 50] = float("nan")
    broken = replace(problem, data=replace(problem.data, flux=blown))
    best = fit(star, lines)
    assert np.isfinite(Density(problem, best)(best.values[None])[0])
    assert np.isneginf(Density(broken, best)(best.values[None])[0])
