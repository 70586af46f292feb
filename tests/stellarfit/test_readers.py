"""Files that become spectra, and files that are refused in one sentence."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table

from stellarfit.readers import read
from tests.stellarfit.mocks import refusal

N = 200
WAVELENGTH = 5000.0 + 0.05 * np.arange(N)
FLUX = 1.0 + 0.01 * np.random.default_rng(0).standard_normal(N)
SIGMA = np.linspace(0.01, 0.02, N)


@pytest.fixture
def image(tmp_path):
    """Write a FITS image with the given header cards and extensions."""

    def write(flux=FLUX, extensions=(), **cards):
        header = fits.Header()
        scale = {"CRVAL1": 5000.0, "CDELT1": 0.05, "CRPIX1": 1.0, "CTYPE1": "AWAV"}
        for key, value in {**scale, **cards}.items():
            if value is not None:
                header[key.replace("_FLAG", "-FLAG")] = value
        path = tmp_path / "image.fits"
        fits.HDUList([fits.PrimaryHDU(flux, header), *extensions]).writeto(path, overwrite=True)
        return path

    return write


@pytest.fixture
def table(tmp_path):
    """Write a FITS binary table with the given columns and primary header cards."""

    def write(columns, units=None, ucd=None, **cards):
        hdu = fits.BinTableHDU(Table(columns))
        for name, unit in (units or {}).items():
            hdu.columns[name].unit = unit
        if ucd:
            hdu.header["TUCD1"] = ucd
        path = tmp_path / "table.fits"
        primary = fits.PrimaryHDU(header=fits.Header(cards))
        fits.HDUList([primary, hdu]).writeto(path, overwrite=True)
        return path

    return write


@pytest.fixture
def text(tmp_path):
    """Write lines and columns of text."""

    def write(*columns, header="", delimiter=" ", name="star.txt"):
        rows = [delimiter.join(map(repr, row)) for row in zip(*map(np.ndarray.tolist, columns),
                                                             strict=True)]
        path = tmp_path / name
        path.write_text("\n".join([*filter(None, [header]), *rows]) + "\n")
        return path

    return write


def check(spectrum, wavelength=WAVELENGTH, flux=FLUX, rtol=1e-12):
    np.testing.assert_allclose(spectrum.wavelength, wavelength, rtol=rtol)
    np.testing.assert_allclose(spectrum.flux, flux, rtol=1e-12)


# FITS images


def test_a_linear_image_is_read_with_its_noise_estimated(image):
    spectrum = read(image(OBJECT="HD 1", INSTRUME="X", BUNIT="adu"))
    check(spectrum)
    assert (spectrum.medium, spectrum.meta["medium_from"]) == ("air", "header")
    assert spectrum.noise_estimated
    assert spectrum.name == "HD 1"
    assert spectrum.meta["flux_unit"] == "adu"
    assert spectrum.meta["hdu"] == 0


def test_the_reference_pixel_is_counted_from_one(image):
    check(read(image(CRPIX1=11.0)), WAVELENGTH - 0.5)


def test_cd1_1_stands_in_for_cdelt1(image):
    check(read(image(CDELT1=None, CD1_1=0.05)))


@pytest.mark.parametrize(
    "cards",
    [{"DC_FLAG": 1, "CTYPE1": "LINEAR"}, {"CTYPE1": "WAVE-LOG"}, {"CTYPE1": "LOG(WAVE)"},
     {"CTYPE1": "LINEAR", "CUNIT1": "log(Angstrom)"}],
)
def test_log10_images_are_read_whichever_way_they_say_so(image, cards):
    path = image(CRVAL1=3.7, CDELT1=1e-5, **cards)
    check(read(path, medium="vacuum"), 10 ** (3.7 + 1e-5 * np.arange(N)))


def test_natural_log_images_are_told_from_log10(image):
    path = image(CRVAL1=8.5, CDELT1=1e-5, DC_FLAG=1)
    check(read(path), np.exp(8.5 + 1e-5 * np.arange(N)))


def test_the_logarithmic_axis_of_the_fits_standard_is_read(image):
    wavelength = 5000 * np.exp(0.05 * np.arange(N) / 5000)
    check(read(image(CTYPE1="AWAV-LOG", CUNIT1="Angstrom")), wavelength)
    in_nm = image(CTYPE1="AWAV-LOG", CUNIT1="nm", CRVAL1=500.0, CDELT1=0.005)
    check(read(in_nm), wavelength)


@pytest.mark.parametrize(("unit", "scale"), [("nm", 0.1), ("um", 1e-4), ("m", 1e-10),
                                            ("Angstrom", 1.0), ("Angstroms", 1.0)])
def test_the_unit_of_an_image_is_recognised(image, unit, scale):
    check(read(image(CUNIT1=unit, CRVAL1=5000 * scale, CDELT1=0.05 * scale)))


def test_iraf_says_the_unit_in_wat1_001(image):
    path = image(CRVAL1=500.0, CDELT1=0.005, WAT1_001="wtype=linear label=Wavelength units=nm")
    check(read(path))


def test_an_image_in_nm_that_does_not_say_so_is_refused(image):
    assert "look like nm" in refusal(image(CRVAL1=500.0, CDELT1=0.005))


def test_an_image_in_an_unknown_unit_is_refused(image):
    assert "'furlong'" in refusal(image(CUNIT1="furlong"))


@pytest.mark.parametrize("name", ["ERR", "SIGMA", "UNCERT"])
def test_an_error_extension_gives_the_noise(image, name):
    spectrum = read(image(extensions=[fits.ImageHDU(SIGMA, name=name)]))
    np.testing.assert_allclose(spectrum.ivar, SIGMA**-2)
    assert not spectrum.noise_estimated


def test_ivar_and_mask_extensions_are_found(image):
    mask = (np.arange(N) < 5).astype(np.int16)
    spectrum = read(image(extensions=[
        fits.ImageHDU(SIGMA**-2, name="IVAR"), fits.ImageHDU(mask, name="MASK")
    ]))
    np.testing.assert_allclose(spectrum.ivar, SIGMA**-2)
    assert spectrum.counts["n_masked"] == 5


def test_an_error_extension_of_another_length_is_refused(image):
    path = image(extensions=[fits.ImageHDU(SIGMA[:-1], name="ERR")])
    assert "equally long" in refusal(path)


def test_the_first_row_of_a_small_stack_is_the_flux(image):
    check(read(image(flux=np.stack([FLUX, 0 * FLUX, SIGMA]))))
    assert "several spectra in one image (40 rows)" in refusal(image(flux=np.ones((40, N))))


def test_multispec_and_other_axes_are_refused(image):
    assert "multispec" in refusal(image(CTYPE1="MULTISPE"))
    assert "no spectrum" in refusal(image(CTYPE1="RA---TAN"))
    assert "no spectrum" in refusal(image(CTYPE1="PIXEL"))


# The medium


@pytest.mark.parametrize(
    ("cards", "medium", "source"),
    [
        ({"CTYPE1": "AWAV"}, "air", "header"),
        ({"CTYPE1": "WAVE"}, "vacuum", "header"),
        ({"CTYPE1": "LINEAR", "AIRORVAC": "vac"}, "vacuum", "header"),
        ({"CTYPE1": "LINEAR", "AIRORVAC": "air"}, "air", "header"),
        ({"CTYPE1": "LINEAR", "VACUUM": True}, "vacuum", "header"),
        ({"CTYPE1": "LINEAR", "VACUUM": 0}, "air", "header"),
        ({"CTYPE1": "WAVELENGTH", "INSTRUME": "HARPS"}, "air", "instrument"),
        ({"CTYPE1": "LINEAR", "INSTRUME": "FEROS"}, "air", "instrument"),
        ({"CTYPE1": "LINEAR", "TELESCOP": "SDSS 2.5-M"}, "vacuum", "instrument"),
    ],
)
def test_the_medium_comes_from_the_header_else_from_the_instrument(image, cards, medium, source):
    spectrum = read(image(**cards))
    assert (spectrum.medium, spectrum.meta["medium_from"]) == (medium, source)


def test_the_argument_overrules_the_header(image):
    spectrum = read(image(CTYPE1="AWAV"), medium="vacuum")
    assert (spectrum.medium, spectrum.meta["medium_from"]) == ("vacuum", "argument")


def test_a_medium_that_nothing_states_is_asked_for(image):
    assert "give medium='air' or medium='vacuum'" in refusal(image(CTYPE1="LINEAR"))
    assert "give medium=" in refusal(image(CTYPE1="WAVELENGTH"))


def test_an_axis_that_contradicts_its_instrument_is_refused_until_the_user_decides(image):
    path = image(CTYPE1="WAVE", INSTRUME="UVES")
    assert "says vacuum, but UVES delivers air" in refusal(path)
    assert read(path, medium="air").medium == "air"


def test_a_column_that_names_its_medium_is_preferred_and_believed(table):
    path = table({"wavelength": WAVELENGTH + 1.4, "wavelength_air": WAVELENGTH, "flux": FLUX},
                 VACUUM=True, INSTRUME="ESPRESSO")
    spectrum = read(path)
    check(spectrum)
    assert spectrum.medium == "air"
    assert "to_medium" in refusal(path, medium="vacuum")


# FITS tables


@pytest.mark.parametrize("names", [("wave", "flux", "err"), ("WAVELENGTH", "FLUX", "ERROR"),
                                   ("lambda", "flux_reduced", "err_reduced"),
                                   ("lam", "spec", "sigma"), ("wl", "counts", "flux_err")])
def test_the_usual_column_names_are_known(table, names):
    spectrum = read(table(dict(zip(names, (WAVELENGTH, FLUX, SIGMA), strict=True))), medium="air")
    check(spectrum)
    np.testing.assert_allclose(spectrum.ivar, SIGMA**-2)


def test_table_units_are_used(table):
    path = table({"awav": WAVELENGTH / 10, "flux": FLUX}, {"awav": "nm", "flux": "Jy"})
    spectrum = read(path)
    check(spectrum)
    assert spectrum.medium == "air"
    assert spectrum.meta["flux_unit"] == "Jy"
    assert "look like nm" in refusal(table({"awav": WAVELENGTH / 10, "flux": FLUX}))


@pytest.mark.parametrize(("ucd", "medium"), [("em.wl;obs.atmos", "air"), ("em.wl", "vacuum")])
def test_an_eso_phase_3_table_holds_its_pixels_in_one_row(table, ucd, medium):
    rows = {"WAVE": WAVELENGTH, "FLUX": FLUX, "ERR": SIGMA, "QUAL": np.arange(N) % 50 == 0}
    spectrum = read(table({k: v[None] for k, v in rows.items()}, {"WAVE": "Angstrom"}, ucd=ucd))
    check(spectrum)
    assert spectrum.medium == medium
    assert spectrum.counts["n_masked"] == 4


def test_variable_length_arrays_in_one_row_are_read(tmp_path):
    columns = [fits.Column("WAVE", "PD()", "Angstrom", array=np.array([WAVELENGTH], dtype=object)),
               fits.Column("FLUX", "PD()", array=np.array([FLUX], dtype=object))]
    path = tmp_path / "pd.fits"
    fits.BinTableHDU.from_columns(columns).writeto(path)
    check(read(path, medium="air"))


def test_several_spectra_in_one_table_are_refused(table):
    path = table({"WAVE": np.stack([WAVELENGTH] * 2), "FLUX": np.stack([FLUX] * 2)})
    assert "several spectra in one table" in refusal(path, medium="air")


def test_an_sdss_table_is_read_with_its_masks(table):
    loglam = (3.58 + 1e-4 * np.arange(N)).astype(np.float32)
    ivar = np.where(np.arange(N) < 10, 0, SIGMA**-2)
    path = table({"flux": FLUX, "loglam": loglam, "ivar": ivar,
                  "and_mask": np.where(np.arange(N) == 50, 1 << 24, 0),
                  "or_mask": np.ones(N, dtype=int)}, VACUUM=True)
    spectrum = read(path)
    check(spectrum, 10.0 ** loglam.astype(float))
    assert spectrum.medium == "vacuum"
    assert spectrum.counts == {"n_nan": 0, "n_zero_ivar": 10, "n_gap": 0, "n_masked": 1}


def test_the_hdu_can_be_chosen_by_number_or_name(image):
    extension = fits.BinTableHDU(Table({"wave": WAVELENGTH, "flux": 2 * FLUX}), name="SPEC")
    path = image(extensions=[extension])
    check(read(path))
    check(read(path, hdu=1, medium="air"), flux=2 * FLUX)
    check(read(path, hdu="SPEC", medium="air"), flux=2 * FLUX)
    assert "no HDU 7" in refusal(path, hdu=7)


def test_gzipped_fits_is_read(image):
    path = image()
    zipped = path.with_name("image.fits.gz")
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    check(read(zipped))
    zipped.write_bytes(zipped.read_bytes()[:300])
    assert "cut short" in refusal(zipped)


# ECSV and text


def test_ecsv_brings_units_masks_and_the_medium(tmp_path):
    path = tmp_path / "star.ecsv"
    made = QTable({"wavelength": WAVELENGTH / 10 * u.nm, "flux": FLUX * u.Jy,
                   "ivar": SIGMA**-2 / u.Jy**2, "mask": np.arange(N) < 3})
    made.meta.update(medium="vacuum", name="HD 2")
    made.write(path)
    spectrum = read(path)
    check(spectrum)
    np.testing.assert_allclose(spectrum.ivar, SIGMA**-2)
    assert (spectrum.medium, spectrum.name) == ("vacuum", "HD 2")
    assert spectrum.counts["n_masked"] == 3
    assert spectrum.meta["flux_unit"] == "Jy"


def test_ecsv_without_a_medium_is_asked_for_it(tmp_path):
    path = tmp_path / "star.ecsv"
    Table({"wave": WAVELENGTH, "flux": FLUX}).write(path)
    assert "give medium=" in refusal(path)
    check(read(path, medium="air"))


def test_two_columns_of_text_are_wavelength_and_flux(text):
    spectrum = read(text(WAVELENGTH, FLUX), medium="air")
    check(spectrum)
    assert spectrum.noise_estimated
    assert spectrum.name == "star"


@pytest.mark.parametrize("delimiter", [" ", "\t", ",", ", ", ";"])
def test_the_third_column_of_text_is_the_uncertainty(text, delimiter):
    spectrum = read(text(WAVELENGTH, FLUX, SIGMA, delimiter=delimiter), medium="air")
    check(spectrum)
    np.testing.assert_allclose(spectrum.ivar, SIGMA**-2)


@pytest.mark.parametrize("header", ["# made by hand\n# flux  wave  ivar", "flux wave ivar",
                                    "# flux wave ivar\n# made by hand"])
def test_names_in_the_first_line_or_a_comment_are_obeyed(text, header):
    spectrum = read(text(FLUX, WAVELENGTH, SIGMA**-2, header=header), medium="air")
    check(spectrum)
    np.testing.assert_allclose(spectrum.ivar, SIGMA**-2)


@pytest.mark.parametrize("header", ["wavelength_nm,flux", "Wavelength [nm],Flux [Jy]",
                                    '"wave (nm)","flux"'])
def test_units_in_the_names_of_a_csv_are_used(text, header):
    path = text(WAVELENGTH / 10, FLUX, header=header, delimiter=",", name="star.csv")
    check(read(path, medium="air"))


def test_a_text_file_must_state_its_medium(text):
    assert "give medium=" in refusal(text(WAVELENGTH, FLUX))
    assert read(text(WAVELENGTH, FLUX, header="# medium: vacuum")).medium == "vacuum"
    assert read(text(WAVELENGTH, FLUX, header="wave_air flux")).medium == "air"


def test_text_in_nm_without_a_unit_is_refused(text):
    assert "look like nm" in refusal(text(WAVELENGTH / 10, FLUX), medium="air")


def test_descending_text_is_reversed_and_duplicates_are_refused(text):
    check(read(text(WAVELENGTH[::-1], FLUX[::-1]), medium="air"))
    twice = np.where(np.arange(N) == 5, WAVELENGTH[4], WAVELENGTH)
    assert "more than once" in refusal(text(twice, FLUX), medium="air")


def test_unnamed_extra_columns_are_refused(text):
    path = text(WAVELENGTH, FLUX, SIGMA, SIGMA)
    assert "4 columns and 3 names" in refusal(path, medium="air")
    assert "1 columns" in refusal(text(WAVELENGTH), medium="air")


def test_names_without_a_flux_are_refused(text):
    path = text(WAVELENGTH, FLUX, header="wave depth")
    assert "no spectrum in columns wave, depth" in refusal(path, medium="air")


# Not spectra


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="no spectrum at"):
        read(tmp_path / "nowhere.fits")


@pytest.mark.parametrize("name", ["empty.fits", "empty.txt", "empty.ecsv", "empty.fits.gz"])
def test_an_empty_file_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"")
    assert "empty" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [b"Dear reader,\nthis is a letter.\n", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100),
     b"# only\n# comments\n", b"wave flux\n", b"5000 1\n5001 1 2\n",
     bytes(range(128, 256)) * 20, b"<html><body>404</body></html>\n"],
)
def test_what_is_not_a_spectrum_is_refused(tmp_path, content):
    path = tmp_path / "thing.dat"
    path.write_bytes(content)
    refusal(path, medium="air")


@pytest.mark.parametrize("size", [100, 2000, 2880, 3500])
def test_a_fits_file_cut_short_is_refused(image, size):
    path = image()
    path.write_bytes(path.read_bytes()[:size])
    assert "corrupted or cut short" in refusal(path)


def test_a_fits_header_of_garbage_is_refused(image):
    path = image()
    noise = np.random.default_rng(0).integers(33, 126, 1600, dtype=np.uint8).tobytes()
    path.write_bytes(path.read_bytes()[:80] + noise + path.read_bytes()[1680:])
    refusal(path)


@pytest.mark.parametrize("value", [b"5000.0 ?", b"'5000.0'", b"T    ,"])
def test_a_corrupted_header_card_is_refused_without_a_traceback_of_astropy(image, value):
    path = image()
    card = next(line for line in map(bytes, zip(*[iter(path.read_bytes())] * 80, strict=False))
                if line.startswith(b"CRVAL1"))
    path.write_bytes(path.read_bytes().replace(card, (b"CRVAL1  = " + value).ljust(80)))
    assert "header" in refusal(path)


def test_fits_without_a_spectrum_lists_what_is_there(table, tmp_path):
    assert "1 unnamed" in refusal(table({"ra": [1.0], "dec": [2.0]}))
    path = tmp_path / "bare.fits"
    fits.PrimaryHDU().writeto(path)
    assert "expected a table with wavelength and flux columns" in refusal(path)


@pytest.mark.parametrize(
    "content",
    ["# %ECSV 1.0\n", "# %ECSV 1.0\n# ---\n# foo: 3\na b\n1 2\n",
     "# %ECSV 1.0\n# ---\n# datatype: [\n# - {name: a\n a b\n1 2\n",
     "# %ECSV 1.0\n# ---\n# datatype:\n# - {name: a, datatype: float64}\na\nx\n"],
)
def test_a_broken_ecsv_is_refused(tmp_path, content):
    path = tmp_path / "star.ecsv"
    path.write_text(content)
    refusal(path)


def test_a_file_of_nan_flux_or_zero_ivar_is_refused(table):
    nan = table({"wave": WAVELENGTH, "flux": FLUX * np.nan, "err": SIGMA})
    assert "all 200 fluxes are NaN" in refusal(nan, medium="air")
    zero = table({"wave": WAVELENGTH, "flux": FLUX, "ivar": 0 * SIGMA})
    assert "none of the 200 pixels has a positive ivar" in refusal(zero, medium="air")


def test_an_unknown_format_lists_the_valid_ones(image):
    with pytest.raises(ValueError, match="'hdf5'; valid: fits, ecsv, text"):
        read(image(), format="hdf5")


def test_hdu_is_refused_where_there_is_none(text):
    assert "not a FITS file" in refusal(text(WAVELENGTH, FLUX), medium="air", hdu=1)


# Real spectra


def test_the_harps_sun_is_read_in_air_with_its_ccd_gap_masked(spectra_folder):
    sun = read(spectra_folder / "sun_harps.fits")
    assert (sun.medium, sun.meta["medium_from"], sun.name) == ("air", "instrument", "Ganymede")
    assert len(sun) == 313025
    assert sun.wavelength[0] == pytest.approx(3783.1439, abs=1e-4)
    bad = sun.wavelength[~sun.good]
    assert 5304 < bad.min() < 5305
    assert 5337 < bad.max() < 5338
    assert sun.counts["n_gap"] == 3304
    assert sun.noise_estimated
    # The strongest Mg b line lies where it should: the Sun is nearly at rest.
    core = sun.cut(5183, 5184.2)
    assert core.wavelength[np.argmin(core.flux)] == pytest.approx(5183.604, abs=0.03)


def test_procyon_says_air_in_its_header(spectra_folder):
    star = read(spectra_folder / "procyon_harps.fits")
    assert (star.medium, star.meta["medium_from"]) == ("air", "header")
    assert star.wavelength[0] == 4800
    assert star.counts["n_gap"] > 3295
    assert 100 < star.snr < 500


def test_the_rotating_star_is_read(spectra_folder):
    star = read(spectra_folder / "hd111998_harps.fits")
    assert star.name == "HD111998"
    assert star.medium == "air"
    assert 400 < star.snr < 1200
    # What is left beside the gap is light, not the scraps of resampling (below 1 %).
    assert star.flux[star.good].min() > 0


def test_the_sdss_white_dwarf_is_read_in_vacuum_with_its_masks(spectra_folder):
    star = read(spectra_folder / "sdss_spec-0266-51602-0031.fits")
    assert (star.medium, star.meta["medium_from"], len(star)) == ("vacuum", "header", 3842)
    assert star.counts["n_masked"] == 222
    assert not star.noise_estimated
    assert star.wavelength[[0, -1]] == pytest.approx([3800.14, 9202.38], abs=0.01)


def test_the_noise_estimated_for_sdss_agrees_with_its_pipeline(spectra_folder):
    star = read(spectra_folder / "sdss_spec-0266-51602-0031.fits")
    estimated = type(star)(star.wavelength, star.flux, mask=star.mask, medium="vacuum")
    ratio = np.sqrt(star.ivar / estimated.ivar)[star.good]
    assert np.median(ratio) == pytest.approx(1, abs=0.25)
