"""What a fit is asked that it cannot do ends in a sentence, and what it need not do is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table

import stellarfit
from stellarfit import Instrument, Spectrum
from stellarfit.priors import RELATIONS, Colour, Uniform
from stellarfit.quality import Flag
from stellarfit.readers import read

STAR = {"teff": 5600.0, "logg": 4.3, "fe_h": -0.2, "vmic": 1.2, "rv": 12.0}
FREE = ["teff", "logg", "fe_h", "rv"]
FIXED = {"vmic": 1.2, "vsini": 0.0}


@pytest.fixture(scope="module")
def star(lines, observe):
    return observe(lines, STAR, snr=80.0, seed=1)


def fit(star, lines, **options):
    return stellarfit.fit(star, **{"resolution": 20_000, "emulator": lines, "free": FREE,
                                   "fixed": FIXED, **options})


@pytest.mark.parametrize(("options", "sentence"), [
    ({"resolution": "abc"}, "resolution is 'abc'; expected a number"),
    ({"continuum": 3.5}, "degree is 3.5; expected a whole number"),
    ({"continuum": True}, "True is no continuum"),
    ({"continuum": "chebyshev:2:nan"}, "expected wavelengths"),
    ({"priors": {"logg": (4.4, 0.1)}}, "is no prior"),
    ({"priors": "logg=4"}, "priors is 'logg=4'; expected names and values"),
    ({"priors": {"logg": "uniform:-inf:inf"}}, "needs finite numbers"),
    ({"fixed": {**FIXED, "vmic": float("nan")}}, "vmic is fixed at nan"),
    ({"fixed": ["vmic"]}, "fixed is .*; expected names and values"),
    ({"tied": "ca_fe=fe_h"}, "tied is 'ca_fe=fe_h'; expected names and values"),
    ({"calibration": 5}, "calibration is int"),
    ({"start": 5}, "start is int"),
    ({"emulator": None}, "emulator is NoneType"),
    ({"resolution": {"blue": 2e4}}, "a single spectrum has no arms"),
    ({"instrument": "harps"}, "got both instrument= and resolution="),
    ({"resolution": None, "instrument": Instrument(
        "in nm", 2e4, table=((515.0, 2e4), (530.0, 2e4)))}, "is the table in Å"),
])
def test_options_that_make_no_sense_are_refused_in_a_sentence(
        star, lines, options, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        fit(star, lines, **options)


def test_a_misspelt_option_is_named_with_those_that_exist(star, lines, tmp_path) -> None:
    path = tmp_path / "star.txt"
    np.savetxt(path, np.column_stack([star.wavelength, star.flux]))
    with pytest.raises(ValueError, match="unknown option resolutoin: with a file a fit takes"):
        fit(path, lines, medium="air", resolutoin=2e4)


def test_an_instrument_that_is_a_missing_file_is_called_that(star, lines) -> None:
    with pytest.raises(FileNotFoundError, match=r"no table of resolution at 'mine\.txt'"):
        fit(star, lines, resolution=None, instrument="mine.txt")


def test_free_parameters_may_be_one_word_as_on_the_command_line(star, lines) -> None:
    assert fit(star, lines, free="teff, logg,fe_h,rv").names == tuple(FREE)


@pytest.mark.parametrize("limits", [(31.0, 60.0), (-100.0, -40.0), (1.0, 13.0)])
def test_a_velocity_stays_within_its_prior_and_labels_within_the_domain(
        star, lines, limits) -> None:
    result = fit(star, lines, priors={"rv": Uniform(*limits)})
    assert limits[0] - 0.01 <= result.rv <= limits[1] + 0.01
    labels = np.array([result.labels[n] for n in lines.labels.names])
    assert lines.domain.contains(labels[None]).all()
    if limits[0] <= STAR["rv"] <= limits[1]:
        assert abs(result.rv - STAR["rv"]) < 0.5
    else:
        assert result.flags & Flag.PRIOR_RANGE_OF_RV


def test_a_better_velocity_that_cannot_be_fitted_makes_the_other_ambiguous(star, lines) -> None:
    # so few pixels that only far shifts leave enough of them on the emulator
    first = stellarfit.fit(star, resolution=20_000, emulator=lines, free=FREE, fixed=FIXED)
    from stellarfit.fitting import best_of
    from stellarfit.preparing import prepare

    problem = prepare([star], resolution=20_000, emulator=lines, free=FREE, fixed=FIXED)[0]
    seen = problem.stars[0]
    better = replace(seen.start, gain=seen.start.gain + 500.0)
    refused = replace(seen, modes=[[better], *seen.modes])
    _, _, gap = best_of([replace(problem, stars=(refused,))])
    assert gap[0] == pytest.approx(-500.0)
    assert not first.flags & Flag.AMBIGUOUS_RV


def test_what_belongs_to_an_arm_that_is_left_out_is_left_out_with_it(star, lines) -> None:
    elsewhere = Spectrum(star.wavelength + 2000.0, star.flux, ivar=star.ivar, medium=star.medium)
    result = fit({"blue": star, "far": elsewhere}, lines,
                 free=["teff", "logg", "fe_h", "rv_blue", "rv_far"])
    assert result.flags & Flag.ARM_LEFT_OUT
    assert result.names == ("teff", "logg", "fe_h", "rv")
    assert result.rv == pytest.approx(STAR["rv"], abs=0.5)


def test_an_arm_without_a_good_pixel_is_left_out(star, lines, tmp_path) -> None:
    paths = {}
    for name, flux in (("a", star.flux), ("b", np.full(len(star), np.nan))):
        paths[name] = tmp_path / f"{name}.ecsv"
        Table({"wavelength": star.wavelength, "flux": flux, "ivar": star.ivar}).write(paths[name])
    result = fit(paths, lines, medium="air")
    assert set(result.provenance["left_out"]) == {"b"}


@pytest.mark.parametrize("several", [stellarfit.fit_batch, stellarfit.sample_batch])
def test_a_single_star_is_no_batch(several, star, lines, tmp_path) -> None:
    for one in (star, "star.fits", {"a": star}):
        with pytest.raises(ValueError, match=r"expected a list of stars; .* give \[star\]"):
            several(one, resolution=20_000, emulator=lines)


def test_an_arm_may_be_a_table_of_pandas(star, lines) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"wavelength": star.wavelength, "flux": star.flux})
    by_table = fit(table, lines, ivar=star.ivar, medium="air")
    assert by_table.labels == fit(star, lines).labels


def test_an_emulator_of_broadened_spectra_is_refused(star, lines) -> None:
    import copy
    from dataclasses import replace

    broadened = copy.copy(lines)
    broadened.labels = replace(lines.labels, names=("teff", "logg", "vsini", "fe_h", "mg_h",
                                                    "ca_h"))
    with pytest.raises(ValueError, match="has vsini as a label: a fit broadens"):
        fit(star, broadened)


def test_arms_with_velocities_of_their_own_need_none_of_the_star(star, lines) -> None:
    result = fit({"a": star, "b": star}, lines, free=None,
                 fixed={**FIXED, "rv": 0.0, "rv_a": 0.0, "rv_b": 1.0})
    assert result.rvs.tolist() == [0.0, 1.0]


def test_no_broadening_is_no_limit(star, lines) -> None:
    result = fit(star, lines, free=[*FREE, "vmac"])
    assert "vmac" not in result.provenance["at_limit"]


def test_what_was_held_is_told(star, lines) -> None:
    assert "held: vmic = 1, vsini = 5, vmac = 0" in fit(
        star, lines, fixed={"vmic": 1.0, "vsini": 5.0}).summary()
    assert "rv = 0" in fit(star, lines, free=["teff", "fe_h"], fixed={"logg": 4.4, "vmic": 1.0}
                           ).summary()


@pytest.mark.parametrize(("options", "sentence"), [
    ({"err": 0.1}, r"unknown option err \(did you mean uncertainty\?\)"),
    ({"fix": {}}, r"did you mean fixed\?"),
])
def test_other_names_of_options_are_understood(star, lines, options, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        stellarfit.fit(star.wavelength, star.flux, resolution=20_000, emulator=lines, **options)


def test_a_parameter_as_it_is_printed_is_recognised(star, lines) -> None:
    with pytest.raises(ValueError, match=r"unknown parameter '\[Fe/H\]' \(did you mean fe_h\?\)"):
        fit(star, lines, free=["teff", "[Fe/H]"])


def test_a_folder_is_no_spectrum(star, lines, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="is a folder: give its files"):
        stellarfit.fit(tmp_path, resolution=20_000, emulator=lines)


def test_a_calibration_needs_to_know_the_star(star, lines) -> None:
    with pytest.raises(ValueError, match="logg, vmic must be known of the star as well"):
        stellarfit.calibrate(star, labels={"teff": 5772, "fe_h": 0.0}, emulator=lines,
                             resolution=20_000)


def test_a_calibration_says_which_options_it_decides(star, lines) -> None:
    with pytest.raises(ValueError, match="emulator_error: a calibration decides that itself"):
        stellarfit.calibrate(star, labels=STAR, emulator=lines, emulator_error=True)


def test_the_star_that_spoils_a_batch_is_named(star, lines) -> None:
    masked = Spectrum(star.wavelength, star.flux, ivar=star.ivar, medium=star.medium,
                      mask=np.abs(np.arange(len(star)) - 200) > 5)
    with pytest.raises(ValueError, match="spectrum 2 of 2: only 11 usable pixels"):
        stellarfit.fit_batch([star, masked], resolution=20_000, emulator=lines, free=FREE,
                             fixed=FIXED)


def test_scaling_errors_twice_scales_them_once_and_says_so(star, lines) -> None:
    noisy = Spectrum(star.wavelength, star.flux, ivar=4.0 * star.ivar, medium=star.medium)
    result = fit(noisy, lines, jitter=False, robust=False)
    once = result.scaled_to_chi2()
    assert once.errors["teff"] > 1.7 * result.errors["teff"]
    assert once.scaled_to_chi2().errors == once.errors
    assert "errors are scaled" in once.summary()


def test_a_resolution_at_the_end_of_its_range_is_flagged(star, lines) -> None:
    result = fit(star, lines, resolution=60_000, free=[*FREE, "resolution"])
    assert "resolution" in result.provenance["at_limit"]
    assert result.flags & Flag.STAGE_AT_LIMIT


def test_the_emulators_share_of_errors_grows_with_the_signal(emulator, observe) -> None:
    shares = []
    for snr in (20.0, 2000.0):
        seen = observe(emulator, STAR, snr=snr, seed=1)
        result = fit(seen, emulator)
        shares.append(result.provenance["emulator_share"])
        assert bool(result.flags & Flag.EMULATOR_LIMITED) == (shares[-1] > 0.5)
    assert shares[0] < 0.5 < shares[1] < 1.0


def test_a_colour_beyond_the_relation_of_dwarfs_takes_that_of_giants() -> None:
    giant = RELATIONS["bp_rp"][1]
    _, value, _ = Colour(1.7, 0.01).linearised("teff", {"logg": 4.5, "fe_h": 0.0})
    assert value == pytest.approx(giant.temperature(1.7, 0.0))


@pytest.mark.parametrize("column", ["err", "ivar"])
def test_errors_may_have_a_unit_of_their_own(star, tmp_path, column) -> None:
    sigma = star.ivar.max() ** -0.5
    values = {"err": np.full(len(star), 1e3 * sigma),
              "ivar": np.full(len(star), 1e-6 * sigma**-2)}[column]
    table = Table({"wavelength": star.wavelength, "flux": star.flux, column: values})
    table["wavelength"].unit, table["flux"].unit = "Angstrom", "Jy"
    table[column].unit = {"err": "mJy", "ivar": "mJy-2"}[column]
    table.write(tmp_path / "star.ecsv")
    snr = read(tmp_path / "star.ecsv", medium="air").snr
    assert snr == pytest.approx(np.median(star.flux) / sigma, rel=1e-6)


def test_an_observer_faster_than_the_earth_is_refused(star) -> None:
    for velocity in (float("nan"), 4e5):
        with pytest.raises(ValueError, match="the observer's velocity"):
            star.to_barycentric(velocity)


def test_a_spectrum_survives_specutils(star) -> None:
    pytest.importorskip("specutils")
    named = Spectrum(star.wavelength, star.flux, ivar=star.ivar, medium="air", name="a star",
                     resolution=np.full(len(star), 2e4))
    back = stellarfit.from_specutils(named.to_specutils())
    assert (back.medium, back.name) == ("air", "a star")
    np.testing.assert_allclose(back.ivar, named.ivar)
    np.testing.assert_array_equal(back.resolution, named.resolution)
    assert len(back) == len(named)
    np.testing.assert_allclose(back.wavelength, named.wavelength)


def test_a_saved_result_keeps_the_resolution_of_its_pixels(star, lines, tmp_path) -> None:
    known = Spectrum(star.wavelength, star.flux, ivar=star.ivar, medium=star.medium,
                     resolution=np.full(len(star), 2e4))
    result = fit(known, lines, resolution=None)
    again = stellarfit.load_result(result.save(tmp_path / "r.h5"))
    np.testing.assert_array_equal(again.spectrum.resolution, result.spectrum.resolution)


def test_two_arms_in_one_file_of_lamost_are_not_read_as_one(tmp_path, star) -> None:
    from astropy.io import fits

    def arm(name):
        columns = [fits.Column("WAVELENGTH", "D", array=star.wavelength),
                   fits.Column("FLUX", "D", array=star.flux),
                   fits.Column("IVAR", "D", array=star.ivar)]
        return fits.BinTableHDU.from_columns(columns, name=name)

    fits.HDUList([fits.PrimaryHDU(), arm("COADD_B"), arm("COADD_R")]).writeto(tmp_path / "m.fits")
    with pytest.raises(ValueError, match=r"several spectra in one file .*read_all"):
        read(tmp_path / "m.fits")


def test_an_arm_whose_velocity_nobody_gave_is_not_taken_to_rest(star, lines) -> None:
    with pytest.raises(ValueError, match="no value for rv_b, while rv_a has one"):
        fit({"a": star, "b": star}, lines, free=["teff", "logg", "fe_h", "rv_a"])
