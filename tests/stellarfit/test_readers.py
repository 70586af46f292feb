"""Files that become spectra, and files that are refused in one sentence."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table

from stellarfit.readers import read, read_all
from stellarfit.spectrum import Spectrum

N = 200
WAVELENGTH = 5000.0 + 0.05 * np.arange(N)
FLUX = 1.0 + 0.01 * np.random.default_rng(0).standard_normal(N)
SIGMA = np.linspace(0.01, 0.02, N)


def refusal(path, **kwargs):
    """The sentence with which a file is refused: one line that names the file."""
    with pytest.raises(ValueError) as caught:
        read(path, **kwargs)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert path.name in sentence
    return sentence


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


def coadd(path, n_target=3, seed=0):
    """A DESI coadd of one arm, as its data model says; the last fibre is dead."""
    rng = np.random.default_rng(seed)
    wavelength = np.arange(5000.0, 5400.0, 0.8)
    flux = rng.uniform(0.5, 1.0, (n_target, len(wavelength))).astype("f4")
    ivar = np.full(flux.shape, 400.0, dtype="f4")
    ivar[-1] = 0.0
    band = np.array([0.1, 0.2, 0.4, 0.2, 0.1])[:, None] * np.ones((5, len(wavelength)))
    fibres = fits.BinTableHDU.from_columns(
        [fits.Column("TARGETID", "K", array=39_627_866_878_511_337 + np.arange(n_target))],
        name="FIBERMAP")
    images = [fits.ImageHDU(a, name=f"B_{k}") for k, a in (
        ("WAVELENGTH", wavelength), ("FLUX", flux), ("IVAR", ivar),
        ("MASK", (rng.uniform(size=flux.shape) < 0.1).astype("i4")),
        ("RESOLUTION", np.array([band] * n_target, dtype="f4")))]
    fits.HDUList([fits.PrimaryHDU(), fibres, *images]).writeto(path)
    return flux


def test_every_target_of_a_desi_coadd_is_read_with_its_matrix(tmp_path):
    flux = coadd(tmp_path / "coadd.fits")
    stars = read_all(tmp_path / "coadd.fits")
    assert list(stars) == [str(39_627_866_878_511_337 + i) for i in range(3)]
    first, second, dead = stars.values()
    assert dead == {}
    np.testing.assert_array_equal(second["b"].flux, flux[1])
    assert (first["b"].medium, first["b"].frame) == ("vacuum", "barycentric")
    assert first["b"].matrix.band.shape == (5, 500)
    assert 0.05 < first["b"].mask.mean() < 0.15
    half = first["b"].cut(5100.0, 5200.0)
    assert half.matrix.band.shape == (5, len(half))


def test_a_desi_coadd_is_several_spectra_to_read(tmp_path):
    coadd(tmp_path / "coadd.fits")
    assert "several spectra in one file" in refusal(tmp_path / "coadd.fits")
    assert "stellarfit.read_all" in refusal(tmp_path / "coadd.fits")


def test_any_other_file_is_one_star(tmp_path):
    np.savetxt(tmp_path / "star.txt", np.column_stack([np.arange(5000.0, 5050.0), np.ones(50),
                                                       np.full(50, 0.1)]))
    stars = read_all(tmp_path / "star.txt", medium="air")
    assert list(stars) == ["star"]
    assert len(stars["star"]) == 50


def test_the_resolution_of_sdss_is_that_of_its_dispersion(tmp_path):
    loglam = np.arange(3.70, 3.73, 1e-4)
    table = fits.BinTableHDU.from_columns([
        fits.Column("loglam", "E", array=loglam), fits.Column("flux", "E", array=loglam * 0 + 1),
        fits.Column("ivar", "E", array=loglam * 0 + 9),
        fits.Column("wdisp", "E", array=np.where(loglam < 3.705, 0.0, 1.1))])
    table.writeto(tmp_path / "spec.fits")
    star = read(tmp_path / "spec.fits", medium="vacuum")
    # sigma = 1.1 pixels of 1e-4 in log10: the zeros of bad pixels take their neighbours'
    expected = 1.0 / (1.1e-4 * np.log(10) * np.sqrt(8 * np.log(2)))
    np.testing.assert_allclose(star.resolution, expected, rtol=2e-3)


@pytest.mark.parametrize(("cards", "frame"), [
    ({"SPECSYS": "BARYCENT"}, "barycentric"), ({"SPECSYS": "TOPOCENT"}, "topocentric"),
    ({"SPECSYS": "HELIOCEN"}, "heliocentric"), ({"HIERARCH ESO DRS BERV": 12.3}, "barycentric"),
    ({"TELESCOP": "SDSS 2.5-M"}, "heliocentric"), ({}, "unknown"),
])
def test_the_frame_is_what_the_header_says(tmp_path, cards, frame):
    image = fits.PrimaryHDU(np.random.default_rng(0).uniform(0.9, 1, 500).astype("f4"))
    image.header.update({"CRVAL1": 5000.0, "CDELT1": 0.1, "CTYPE1": "AWAV", **cards})
    image.writeto(tmp_path / "star.fits")
    assert read(tmp_path / "star.fits", medium="air").frame == frame


def test_the_earths_velocity_is_taken_out_once():
    star = Spectrum([5000.0, 5001.0, 5002.0], [1, 1, 1], ivar=[1, 1, 1], medium="air",
                    meta={"frame": "topocentric"})
    moved = star.to_barycentric(30.0)
    assert moved.wavelength[0] == pytest.approx(5000.0 * (1 + 30.0 / 299_792.458), abs=1e-4)
    assert (moved.frame, star.frame) == ("barycentric", "topocentric")
    with pytest.raises(ValueError, match="are barycentric already"):
        moved.to_barycentric(30.0)


def test_the_dead_and_the_faint_of_a_real_coadd_are_read(spectra_folder):
    stars = read_all(spectra_folder / "desi_coadd-sv3-dark-26065.fits")
    assert len(stars) == 5
    assert sum(bool(arms) for arms in stars.values()) == 2
    blue = next(a for a in stars.values() if a)["b"]
    assert blue.matrix.resolution(blue.wavelength) == pytest.approx(2950, rel=0.05)


def binary_table(name, **columns):
    return fits.BinTableHDU.from_columns(
        [fits.Column(k, {"f": "D", "i": "J", "b": "L", "u": "J"}[np.asarray(v).dtype.kind],
                     array=np.asarray(v)) for k, v in columns.items()], name=name)


def test_apogee_gives_its_combined_spectrum_less_the_bad_pixels(tmp_path):
    # Holtzman et al. 2015: 8575 pixels, log10 of the wavelength from 4.179 in steps of 6e-6
    flux = np.vstack([np.full((1, 8575), 1.0), np.full((3, 8575), 9.0)]).astype("f4")
    mask = np.zeros((4, 8575), dtype="i4")
    mask[0, 100], mask[0, 200], mask[0, 300] = 1 << 0, 1 << 13, 1 << 14
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(a) for a in (flux, 0.01 * flux, mask))]
    hdus[0].header["OBJID"] = "2M00000000+0000000"
    hdus[1].header.update({"CRVAL1": 4.179, "CDELT1": 6e-6, "CTYPE1": "LOG-LINEAR"})
    fits.HDUList(hdus).writeto(tmp_path / "apStar.fits")
    star = read(tmp_path / "apStar.fits")
    assert (star.medium, star.frame, star.name) == ("vacuum", "stellar rest", "2M00000000+0000000")
    assert star.wavelength[[0, -1]] == pytest.approx([10**4.179, 10**(4.179 + 6e-6 * 8574)])
    assert (star.flux == 1.0).all()
    assert np.flatnonzero(star.mask).tolist() == [100, 300]
    assert star.snr == pytest.approx(100.0, rel=1e-5)


def test_the_errors_of_galah_are_relative(tmp_path):
    flux, error = np.linspace(900.0, 1100.0, 300), np.full(300, 0.02)
    hdus = [fits.PrimaryHDU(flux), fits.ImageHDU(error)]
    hdus[0].header.update({"INSTRUME": "HERMES-2dF", "CRVAL1": 4713.6, "CDELT1": 0.046,
                           "CRPIX1": 0.0, "OBJECT": "star"})
    fits.HDUList(hdus).writeto(tmp_path / "1.fits")
    star = read(tmp_path / "1.fits")
    assert star.wavelength[0] == pytest.approx(4713.6)
    np.testing.assert_allclose(star.ivar, (0.02 * flux) ** -2)
    assert (star.medium, star.frame) == ("air", "barycentric")


def test_lamost_at_low_resolution_before_and_after_its_eighth_release(tmp_path):
    loglam = 3.57 + 1e-4 * np.arange(400)
    flux, ivar = np.linspace(10.0, 20.0, 400), np.full(400, 4.0)
    bad = (np.arange(400) == 7).astype(float)
    image = fits.PrimaryHDU(np.array([flux, ivar, 10**loglam, bad, bad], dtype="f4"))
    image.header.update({"TELESCOP": "LAMOST", "DESIG": "LAMOST J0", "COEFF0": 3.57,
                         "COEFF1": 1e-4})
    image.writeto(tmp_path / "old.fits")
    row = [fits.Column(k, "400E" if k != "ANDMASK" else "400J", array=[v]) for k, v in (
        ("FLUX", flux), ("IVAR", ivar), ("WAVELENGTH", 10**loglam), ("ANDMASK", bad))]
    first = fits.PrimaryHDU()
    first.header.update({"TELESCOP": "LAMOST", "OBJECT": "LAMOST J0"})
    fits.HDUList([first, fits.BinTableHDU.from_columns(row, name="COADD")]).writeto(
        tmp_path / "new.fits")
    for name in ("old", "new"):
        star = read(tmp_path / f"{name}.fits")
        assert (star.medium, star.frame) == ("vacuum", "heliocentric")
        np.testing.assert_allclose(star.wavelength, 10**loglam, rtol=1e-6)
        np.testing.assert_allclose(star.ivar, 4.0)
        assert np.flatnonzero(star.mask).tolist() == [7]


def test_lamost_at_medium_resolution_has_two_arms(tmp_path):
    hdus = [fits.PrimaryHDU()]
    for arm, low in (("B", 4950.0), ("R", 6300.0)):
        loglam = np.log10(low) + 1e-5 * np.arange(300)
        hdus.append(binary_table(
            f"COADD_{arm}", FLUX=np.full(300, 3.0), IVAR=np.full(300, 2.0), LOGLAM=loglam,
            PIXMASK=(np.arange(300) == 5).astype("i4")))
    fits.HDUList(hdus).writeto(tmp_path / "med.fits")
    (arms,) = read_all(tmp_path / "med.fits").values()
    assert list(arms) == ["b", "r"]
    assert arms["r"].wavelength[0] == pytest.approx(6300.0)
    assert arms["b"].mask.sum() == 1


def test_good_is_one_in_the_masks_of_pypeit(tmp_path):
    wavelength, good = np.linspace(5000.0, 5100.0, 200), np.ones(200, dtype="i4")
    good[[3, 9]] = 0
    first = fits.PrimaryHDU()
    first.header["PYP_SPEC"] = "keck_hires"
    spectrum = binary_table("SPECTRUM", wave=wavelength, flux=np.full(200, 2.0),
                            ivar=np.ones(200), mask=good)
    fits.HDUList([first, spectrum]).writeto(tmp_path / "coadd.fits")
    star = read(tmp_path / "coadd.fits")
    assert star.medium == "vacuum"
    assert np.flatnonzero(star.mask).tolist() == [3, 9]

    orders = [binary_table(
        f"OBJ0001-MSC01-ORDER{n:04d}", OPT_WAVE=np.append(0.0, wavelength + n),
        OPT_COUNTS=np.full(201, 2.0), OPT_COUNTS_IVAR=np.ones(201),
        OPT_MASK=np.append(False, good > 0)) for n in (70, 71)]
    orders[0].header["VEL_TYPE"] = "heliocentric"
    fits.HDUList([first, *orders]).writeto(tmp_path / "spec1d.fits")
    (arms,) = read_all(tmp_path / "spec1d.fits").values()
    assert list(arms) == ["0070", "0071"]
    assert np.flatnonzero(arms["0071"].mask).tolist() == [3, 9]
    assert arms["0070"].frame == "heliocentric"


def echelle(path, specs, data):
    image = fits.PrimaryHDU(np.asarray(data, dtype="f4"))
    image.header.update({"CTYPE1": "MULTISPE", "OBJECT": "star"})
    text = "wtype=multispec " + " ".join(f'spec{i + 1} = "{s}"' for i, s in enumerate(specs))
    for i in range(0, len(text), 68):
        image.header[f"WAT2_{i // 68 + 1:03d}"] = text[i:i + 68]
    image.writeto(path)


def test_the_orders_of_a_multispec_image_are_arms(tmp_path):
    # Valdes 1993: linear, log-linear, and a Chebyshev polynomial of order 3 over 1..200
    echelle(tmp_path / "e.fits", [
        "60 1 0 5000. 0.05 200 0. 1. 2.", "61 2 1 3.7 1.e-5 200 0. 1. 2.",
        "62 3 2 0. 0. 200 0. 1. 2. 1. 0. 1 3 1. 200. 5150. 10. 0.5",
    ], np.random.default_rng(0).uniform(0.9, 1.0, (3, 200)))
    (arms,) = read_all(tmp_path / "e.fits", medium="air").values()
    assert list(arms) == ["60", "61", "62"]
    np.testing.assert_allclose(arms["60"].wavelength, 5000.0 + 0.05 * np.arange(200))
    np.testing.assert_allclose(arms["61"].wavelength, 10 ** (3.7 + 1e-5 * np.arange(200)))
    x = np.linspace(-1.0, 1.0, 200)
    np.testing.assert_allclose(arms["62"].wavelength, 5150.0 + 10.0 * x + 0.5 * (2 * x**2 - 1))
    assert arms["60"].noise_estimated
    with pytest.raises(ValueError, match="air or vacuum"):
        read_all(tmp_path / "e.fits")
    with pytest.raises(ValueError, match=r"multispec image.*read_all"):
        read(tmp_path / "e.fits", medium="air")


def test_an_order_whose_dispersion_is_not_known_is_left_out(tmp_path, caplog):
    echelle(tmp_path / "e.fits", ["1 1 0 5000. 0.05 50 0. 1. 2.",
                                  "2 1 2 0. 0. 50 0. 1. 2. 1. 0. 3 2 1. 50. 1. 2. 3. 4. 5."],
            np.random.default_rng(0).uniform(0.9, 1.0, (2, 50)))
    (arms,) = read_all(tmp_path / "e.fits", medium="air").values()
    assert list(arms) == ["1"]
    assert "dispersion function 3 of IRAF is not known" in caplog.text
