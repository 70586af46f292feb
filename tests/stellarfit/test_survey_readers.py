"""Readers of what surveys and pipelines write: each file as published, or a real one."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from stellarfit.readers import read, read_all
from stellarfit.spectrum import Spectrum
from tests.stellarfit.mocks import refusal

N = 200
WAVELENGTH = 5000.0 + 0.05 * np.arange(N)
FLUX = 1.0 + 0.01 * np.random.default_rng(0).standard_normal(N)
SIGMA = np.linspace(0.01, 0.02, N)


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


def test_a_file_that_lacks_what_its_kind_has_is_refused_by_name(tmp_path):
    hermes = fits.PrimaryHDU(FLUX)
    hermes.header["INSTRUME"] = "HERMES-2df"
    fits.HDUList([hermes, fits.ImageHDU(SIGMA)]).writeto(tmp_path / "h.fits")
    for reader in (read, read_all):
        with pytest.raises(ValueError, match=r"h\.fits' lacks .*CRVAL1"):
            reader(tmp_path / "h.fits")


def test_a_table_of_fibres_alone_is_no_coadd(tmp_path):
    from stellarfit.readers.many import count_stars

    fibres = fits.BinTableHDU.from_columns(
        [fits.Column("TARGETID", "K", array=np.arange(500))], name="FIBERMAP")
    fits.HDUList([fits.PrimaryHDU(), fibres]).writeto(tmp_path / "redrock.fits")
    assert count_stars(tmp_path / "redrock.fits") == 1


def test_what_an_ecsv_says_of_itself_is_not_taken_for_ours(tmp_path):
    from astropy.table import Table

    meta = {"medium": "air", "noise": "estimated", "frame": "moon", "observer": "x"}
    Table({"wavelength": WAVELENGTH, "flux": FLUX, "err": SIGMA}, meta=meta).write(
        tmp_path / "s.ecsv")
    spectrum = read(tmp_path / "s.ecsv")
    assert (spectrum.noise_estimated, spectrum.frame) == (False, "unknown")
    assert spectrum.meta["observer"] == "x"


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
    echelle(tmp_path / "one.fits", ["60 1 0 5000. 0.05 200 0. 1. 2."], np.ones(200) + FLUX)
    (arms,) = read_all(tmp_path / "one.fits", medium="air").values()
    assert list(arms) == ["60"]
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
