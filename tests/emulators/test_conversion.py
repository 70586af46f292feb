"""Grids from elsewhere: each format gives back its fluxes and labels, each mistake a sentence."""

from __future__ import annotations

import gzip
import json
import logging
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from emulators import Domain, Grid
from emulators.air import air_to_vacuum
from emulators.conversion.writing import spread

N_SPEC = 24
WAVELENGTH = np.round(5160.0 + 0.05 * np.arange(601), 3)  # as Fortran prints it
NAMES = ("teff", "logg", "fe_h")
RNG = np.random.default_rng(5)
LABELS = RNG.uniform([4500.0, 2.0, -1.0], [6500.0, 5.0, 0.3], (N_SPEC, 3)).round(4)
LINES = np.array([5167.321, 5172.684, 5183.604])


def spectra(wavelength: NDArray[Any] = WAVELENGTH) -> NDArray[np.float64]:
    """Return spectra of the Mg b lines in air, deeper the cooler, rounded to five digits."""
    profile = np.exp(-0.5 * ((wavelength[:, None] - LINES) / 0.3) ** 2).sum(axis=1)
    depth = 0.3 + 0.5 * (6500.0 - LABELS[:, :1]) / 2000.0
    return np.asarray((1.0 - depth * profile).clip(0.0).round(5))


FLUX = spectra()
Write = Callable[[Path, NDArray[Any], NDArray[Any]], None]


def columns(header: str = "", *, comments: str = "# ", delimiter: str = " ") -> Write:
    """Return a writer of columns of text."""
    def write(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
        np.savetxt(path, np.column_stack([wavelength, flux]), header=header, comments=comments,
                   delimiter=delimiter, fmt="%.8g")
    return write


PLAIN = columns()


def flux_first(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
    """Write the columns the other way round; their names tell which is which."""
    columns("flux_norm wave_air", comments="")(path, flux, wavelength)


def as_ecsv(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
    Table({"wave": wavelength / 10.0, "flux": flux}, units={"wave": "nm"}).write(
        path, format="ascii.ecsv")


def as_fits_image(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
    """Write as iSpec does: in nm, air by CTYPE1."""
    hdu = fits.PrimaryHDU(flux)
    hdu.header.update(CRVAL1=wavelength[0] / 10, CDELT1=0.005, CRPIX1=1, CUNIT1="NM", CTYPE1="AWAV")
    hdu.writeto(path)


def as_fits_table(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
    Table({"AWAV": wavelength, "FLUX": flux}, units={"AWAV": "Angstrom"}).write(path)


def as_turbospectrum(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
    path.write_text("".join(f"{x:11.3f} {y:10.5f} {y * 1.2e6:12.5E}\n"
                            for x, y in zip(wavelength, flux, strict=True)))


def as_moog(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
    path.write_text(
        f"the number of points per synthesis = {len(flux):5d}\n"
        f"start = {wavelength[0]:10.3f}     stop = {wavelength[-1]:10.3f}     step =      0.050\n"
        + "".join(f"{x:10.3f}  {y:10.5f}\n" for x, y in zip(wavelength, flux, strict=True)))


def as_ispec(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
    path.write_text("waveobs\tflux\terr\n" + "\n".join(
        f"{x / 10:.6f}\t{y}\t0.0" for x, y in zip(wavelength, flux, strict=True)))


def as_zipped_ispec(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
    as_ispec(path.with_suffix(""), wavelength, flux)
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    path.with_suffix("").unlink()


def as_korg(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
    """Write what ``synthesize`` returns, whose flux is not divided by the continuum."""
    continuum = 1e14 * (wavelength / 5000.0)
    np.savetxt(path, np.column_stack([wavelength, flux * continuum, continuum]))


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of spectra and, unless told otherwise, its labels."""
    def make(write: Write = PLAIN, suffix: str = ".txt", *, labels: bool = True,
             name: str = "spectra", flux: NDArray[Any] = FLUX,
             wavelength: NDArray[Any] = WAVELENGTH) -> Path:
        source = tmp_path / name
        source.mkdir()
        for number, one in enumerate(flux):
            write(source / f"s{number:03d}{suffix}", wavelength, one)
        if labels:
            write_labels(source, suffix)
        return source
    return make


def write_labels(source: Path, suffix: str = ".txt", name: str = "labels.csv",
                 **extra: Any) -> Path:
    table = {"file": [f"s{i:03d}{suffix}" for i in range(N_SPEC)], "Teff": LABELS[:, 0],
             "log g": LABELS[:, 1], "[Fe/H]": LABELS[:, 2], **extra}
    Table(table).write(source / name, overwrite=True)
    return source / name


def assert_holds(grid: Grid, flux: NDArray[Any] = FLUX, wavelength: NDArray[Any] = WAVELENGTH
                 ) -> None:
    np.testing.assert_allclose(grid.wavelength, wavelength, rtol=2e-9)
    np.testing.assert_allclose(grid.flux(np.arange(N_SPEC)), flux, atol=1e-6)
    assert grid.label_set.names == NAMES
    assert grid.label_set.units == ("K", "dex", "dex")
    np.testing.assert_allclose(grid.labels, LABELS, rtol=1e-6)


@pytest.mark.parametrize(("write", "suffix", "format", "options"), [
    (columns(), ".txt", "text", {"medium": "air"}),
    (columns("wavelength flux"), ".dat", "text", {"medium": "air"}),
    (flux_first, ".txt", "text", {}),
    (columns("Wave,Flux", comments="", delimiter=","), ".csv", "text", {"medium": "air"}),
    (as_ecsv, ".ecsv", "text", {"medium": "air"}),
    (as_fits_image, ".fits", "fits", {}),
    (as_fits_table, ".fits", "fits", {}),
    (as_turbospectrum, ".spec", "turbospectrum", {"medium": "air"}),
    (as_moog, ".out", "moog", {"medium": "air"}),
    (as_ispec, ".txt", "ispec", {"medium": "air"}),
    (as_zipped_ispec, ".txt.gz", "ispec", {"medium": "air"}),
])
def test_a_folder_is_recognised_and_gives_back_its_fluxes_and_labels(
    folder: Callable[..., Path], tmp_path: Path, write: Write, suffix: str, format: str,
    options: dict[str, Any],
) -> None:
    grid = Grid.convert(folder(write, suffix), tmp_path / "grid.h5", **options)
    assert_holds(grid)
    assert grid.medium == "air"
    made_by = grid.provenance["made_by"]
    assert (made_by["format"], made_by["converted_from"]) == (format, "spectra")
    assert made_by["labels"] == {"Teff": "teff", "log g": "logg", "[Fe/H]": "fe_h"}


def test_korg_is_divided_by_its_continuum_and_is_in_vacuum(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    wavelength = air_to_vacuum(WAVELENGTH)
    source = folder(as_korg, wavelength=wavelength)
    grid = Grid.convert(source, tmp_path / "grid.h5", format="korg")
    assert_holds(grid, wavelength=wavelength)
    assert grid.medium == "vacuum"
    with pytest.raises(ValueError, match="in vacuum, but medium='air' was given"):
        Grid.convert(source, tmp_path / "other.h5", format="korg", medium="air")


def test_a_rectified_spectrum_beside_its_continuum_is_not_divided_again(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    def write(path: Path, wavelength: NDArray[Any], flux: NDArray[Any]) -> None:
        np.savetxt(path, np.column_stack([wavelength, flux, np.full_like(flux, 1e14)]),
                   header="wls flux cntm")

    assert_holds(Grid.convert(folder(write), tmp_path / "grid.h5", medium="air"))


@pytest.mark.parametrize("transposed", [False, True])
def test_the_paynes_own_training_set_is_read_either_way_round(
    tmp_path: Path, transposed: bool
) -> None:
    np.savez(tmp_path / "set.npz", labels=LABELS.T if transposed else LABELS, spectra=FLUX)
    np.savez(tmp_path / "wave.npz", wavelength=WAVELENGTH)
    grid = Grid.convert(tmp_path / "set.npz", tmp_path / "grid.h5", names=NAMES, medium="air",
                        wavelength=tmp_path / "wave.npz")
    assert_holds(grid)


def test_a_training_set_keeps_its_own_validation_spectra(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", training_labels=LABELS[:20], training_spectra=FLUX[:20],
             validation_labels=LABELS[20:], validation_spectra=FLUX[20:], wavelength=WAVELENGTH)
    grid = Grid.convert(tmp_path / "set.npz", tmp_path / "grid.h5", names=NAMES, medium="air")
    assert_holds(grid)
    assert grid.rows("validation").tolist() == [20, 21, 22, 23]


@pytest.mark.parametrize(("arrays", "options", "sentence"), [
    ({"labels": LABELS, "spectra": FLUX}, {}, "but no wavelengths: give the file .* wavelength="),
    ({"labels": LABELS, "spectra": FLUX, "wavelength": WAVELENGTH}, {"names": None},
     r"does not name its labels, an array of \(24, 3\): say names="),
    ({"labels": LABELS, "spectra": FLUX, "wavelength": WAVELENGTH}, {"names": ["teff", "logg"]},
     r"labels have shape \(24, 3\), but 24 spectra with 2 names .* need \(24, 2\)"),
    ({"labels": LABELS, "spectra": FLUX, "wavelength": WAVELENGTH}, {"names": ["teff"] * 3},
     "label names must be unique"),
    ({"labels": LABELS, "spectra": FLUX, "wavelength": WAVELENGTH[1:]}, {},
     r"spectra has shape \(24, 601\), but there are 600 wavelengths"),
    ({"labels": LABELS, "wavelength": WAVELENGTH}, {}, "has the arrays labels, wavelength; exp"),
    ({"labels": LABELS[:3], "spectra": FLUX[:3], "wavelength": WAVELENGTH}, {},
     "as many spectra as labels, 3: the array of labels could be either way round"),
    ({"labels": LABELS, "spectra": FLUX * 40.0, "wavelength": WAVELENGTH}, {},
     r"set.npz', spectrum 0: the flux runs from .* to 40, but a grid holds flux divided by"),
    ({"labels": LABELS, "spectra": np.array([{}]), "wavelength": WAVELENGTH}, {},
     "is not an .npz file of plain arrays"),
    ({"labels": LABELS, "spectra": FLUX, "wavelength": WAVELENGTH}, {"pattern": "(?P<teff>.)"},
     "pattern= .* goes with a folder; an .npz file has its own labels"),
    ({"labels": LABELS, "spectra": FLUX, "wavelength": WAVELENGTH}, {"format": "text"},
     "format 'text' needs a folder, but .*set.npz' is a file"),
])
def test_a_training_set_that_does_not_fit_gets_one_sentence(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError, match=sentence) as caught:
        Grid.convert(tmp_path / "set.npz", tmp_path / "grid.h5",
                     **{"names": NAMES, "medium": "air", **options})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "grid.h5").exists()


def test_labels_can_stand_in_the_names_of_the_files(tmp_path: Path) -> None:
    source = tmp_path / "marcs"
    source.mkdir()
    for number, (teff, logg, fe_h) in enumerate(LABELS):
        as_turbospectrum(source / f"p{teff:.4f}_g{logg:+.4f}_m0.0_t01_z{fe_h:+.4f}_x.spec",
                         WAVELENGTH, FLUX[number])
    (source / "run.log").write_text("babsma says hello")
    grid = Grid.convert(
        source, tmp_path / "grid.h5", medium="air",
        pattern=r"p(?P<teff>[\d.]+)_g(?P<logg>[+-][\d.]+)_.*_z(?P<fe_h>[+-][\d.]+)_")
    order = [int(np.flatnonzero(np.isclose(LABELS[:, 0], t, rtol=1e-6))[0])
             for t in grid.labels[:, 0]]
    assert sorted(order) == list(range(N_SPEC))
    np.testing.assert_allclose(grid.labels, LABELS[order], rtol=1e-6)
    np.testing.assert_allclose(grid.flux(np.arange(N_SPEC)), FLUX[order], atol=1e-6)


@pytest.mark.parametrize("name", ["labels.fits", "labels.ecsv", "labels.txt", "labels.tsv"])
def test_a_table_of_labels_may_be_any_that_astropy_reads(
    folder: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    source = folder(labels=False)
    table = Table.read(write_labels(source))
    table.rename_columns(["log g", "[Fe/H]"], ["LOGG", "FE_H"])  # as FITS wants them
    (source / "labels.csv").unlink()
    kind = {"txt": "ascii.commented_header", "tsv": "ascii.tab"}.get(name[-3:])
    table.write(source / name, **({"format": kind} if kind else {}))
    assert_holds(Grid.convert(source, tmp_path / "grid.h5", medium="air"))


def test_a_ratio_to_iron_becomes_an_abundance_and_the_log_says_so(
    folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = folder(labels=False)
    ratio = np.linspace(-0.2, 0.4, N_SPEC)
    write_labels(source, **{"[Mg/Fe]": ratio})
    with caplog.at_level(logging.INFO, logger="emulators"):
        grid = Grid.convert(source, tmp_path / "grid.h5", medium="air")
    assert grid.label_set.names == ("teff", "logg", "fe_h", "mg_h")
    np.testing.assert_allclose(grid.labels[:, 3], LABELS[:, 2] + ratio, atol=1e-6)
    assert "[Mg/Fe] -> mg_h" in caplog.text


def test_units_of_the_table_become_ours(folder: Callable[..., Path], tmp_path: Path) -> None:
    source = folder(labels=False)
    Table({"spectrum": [f"s{i:03d}" for i in range(N_SPEC)], "teff": LABELS[:, 0] / 1000.0,
           "vmic": np.linspace(500.0, 2000.0, N_SPEC)},
          units={"teff": "kK", "vmic": "m/s"}).write(tmp_path / "table.ecsv")
    grid = Grid.convert(source, tmp_path / "grid.h5", medium="air",
                        labels=tmp_path / "table.ecsv")
    np.testing.assert_allclose(grid.labels[:, 0], LABELS[:, 0], rtol=1e-6)
    assert (grid.labels[:, 1].min(), grid.labels[:, 1].max()) == (0.5, 2.0)


def test_names_choose_rename_and_order_the_labels(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = folder(labels=False)
    write_labels(source, id=np.arange(N_SPEC), **{"[M/H]": LABELS[:, 2] + 1.0})
    with pytest.raises(ValueError, match=r"cannot tell what 'id', '\[M/H\]' of the columns"):
        Grid.convert(source, tmp_path / "grid.h5", medium="air")
    grid = Grid.convert(source, tmp_path / "grid.h5", medium="air",
                        names=["logg", "fe_h=[M/H]", "Teff"])
    assert grid.label_set.names == ("logg", "fe_h", "teff")
    np.testing.assert_allclose(grid.labels[:, 1], LABELS[:, 2] + 1.0, atol=1e-6)


@pytest.mark.parametrize(("table", "sentence"), [
    ({"Teff": [5000.0]}, r"it needs one that names the file of each spectrum \(file, filename"),
    ({"file": ["s000.txt"], "path": ["s000.txt"], "Teff": [1.0]}, "it needs one that names"),
    ({"file": ["s000.txt"]}, "no labels: a grid needs at least one column"),
    ({"file": ["nope.txt"], "Teff": [5000.0]}, "no spectrum 'nope.txt' in .*spectra'"),
    ({"file": ["s000"], "Teff": [np.nan]}, "column 'Teff' has no number for 's000'"),
    ({"file": ["s000"], "Teff": [5.0], "teff": [5.0]}, "several columns hold the label 'teff'"),
    ({"file": ["s000"], "Teff": [5.0], "[Mg/Fe]": [0.1]}, "mg_h needs fe_h beside it"),
    ({"file": ["s000"], "[Fe/H]": [0.0], "[Mg/Fe]": [0.1], "[Mg/H]": [0.1]},
     r"'\[Mg/Fe\]' and '\[Mg/H\]' are the same label"),
])
def test_a_bad_table_of_labels_gets_one_sentence(
    folder: Callable[..., Path], tmp_path: Path, table: dict[str, Any], sentence: str
) -> None:
    source = folder(labels=False, flux=FLUX[:2])
    Table(table).write(source / "labels.ecsv")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        Grid.convert(source, tmp_path / "grid.h5", medium="air")
    assert "\n" not in str(caught.value)


Spoil = Callable[[Path], None]


def _rewrite(name: str, write: Write, wavelength: NDArray[Any] = WAVELENGTH,
             flux: NDArray[Any] = FLUX[0]) -> Spoil:
    def spoil(source: Path) -> None:
        write(source / name, wavelength, flux)
    return spoil


def _text(name: str, text: str) -> Spoil:
    def spoil(source: Path) -> None:
        (source / name).write_text(text)
    return spoil


@pytest.mark.parametrize(("spoil", "options", "sentence"), [
    (_rewrite("s007.txt", columns(), WAVELENGTH[:-1], FLUX[0, :-1]), {},
     r"s007.txt' has 600 wavelengths, 5160 to 5189.95, but 's000.txt' has 601"),
    (_rewrite("s007.txt", columns(), WAVELENGTH + 0.05), {}, "s007.txt' has 601 wavelengths"),
    (_rewrite("s007.txt", columns(), WAVELENGTH, FLUX[0] * 1e6), {},
     r"s007.txt': the flux runs from .* to 1e\+06, but a grid holds flux divided by its cont"),
    (_rewrite("s007.txt", columns(), WAVELENGTH, FLUX[0] * 1e-13), {}, "s007.txt': the flux runs"),
    (_rewrite("s000.txt", columns("time count"), WAVELENGTH), {},
     "s000.txt' as text: no spectrum in columns time, count: expected one called wavelength"),
    (_rewrite("s000.txt", columns(), np.append(WAVELENGTH[:-1], WAVELENGTH[-2])), {},
     "do not increase: pixel 599 is at 5189.95 Å"),
    (_text("s007.txt", "5160.0 ******\n" * 300), {}, "no two columns of numbers within the first"),
    (_text("s007.txt", "5160.0 1.0\n5160.1 ****\n"), {}, "not all below the header are numbers"),
    (_text("s000.txt", "nothing here"), {}, "s000.txt' is not a spectrum we know"),
    (lambda source: None, {"medium": None}, "does not say whether .* give medium='air' or"),
    (lambda source: None, {"medium": "water"}, "medium is 'water'; valid: air, vacuum"),
    (lambda source: None, {"medium": "vacuum"}, "is not written: .*these look like air"),
    (lambda source: None, {"unit": "K"}, "are in 'K', which is not a length"),
    (lambda source: None, {"format": "vald"}, "unknown format 'vald'; valid: payne, fits, "),
    (lambda source: None, {"format": "payne"}, "format 'payne' needs an .npz file"),
    (lambda source: None, {"format": "turbospectrum"}, "2 columns, but Turbospectrum writes"),
    (lambda source: None, {"validation": 1.0}, "validation is 1.0, expected a fraction"),
    (lambda source: None, {"names": ["teff", "gravitas"]}, "unknown column 'gravitas'"),
    (lambda source: None, {"wavelength": "w.npz"}, "wavelength= .* goes with an .npz file"),
    (lambda source: None, {"pattern": "(?P<teff>.)", "labels": "l.csv"}, "not from both"),
    (lambda source: None, {"domain": Domain.box([0.0], [1.0])}, "limits 1 labels, but there are 3"),
    (lambda source: None, {"domain": Domain.box([4000.0, 4.0, -2.0], [7000.0, 5.0, 1.0])},
     "is not written: .* spectra lie outside the grid's own domain"),
    (lambda source: (source / "labels.csv").unlink(), {}, "no labels for the spectra in"),
    (lambda source: write_labels(source, name="labels.ecsv"), {}, "has several tables of labels"),
    (_text("labels.csv", "file,Teff\ns000.txt,1,2,3\n"), {}, "is not a table that astropy reads"),
])
def test_a_folder_that_does_not_fit_gets_one_sentence_and_no_file(
    folder: Callable[..., Path], tmp_path: Path, spoil: Spoil, options: dict[str, Any],
    sentence: str,
) -> None:
    source = folder()
    spoil(source)
    with pytest.raises(ValueError, match=sentence) as caught:
        Grid.convert(source, tmp_path / "grid.h5", **{"medium": "air", **options})
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spectra"]


def test_what_is_there_is_not_written_over(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = folder()
    with pytest.raises(FileExistsError, match=r"labels.csv' exists: remove it, or give another"):
        Grid.convert(source, source / "labels.csv", medium="air")
    Grid.convert(source, tmp_path / "mine.h5", medium="air")
    with pytest.raises(FileExistsError, match=r"mine.h5' exists"):
        Grid.convert(source, tmp_path / "mine.h5", medium="air")
    with pytest.raises(FileNotFoundError, match="no spectra at 'nowhere'"):
        Grid.convert("nowhere", tmp_path / "grid.h5")
    with pytest.raises(ValueError, match="is one file, but of the formats only payne"):
        Grid.convert(source / "s000.txt", tmp_path / "grid.h5")


def test_several_syntheses_in_one_file_of_moog_are_refused(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = folder(as_moog, ".out")
    text = (source / "s003.out").read_text()
    (source / "s003.out").write_text(text + text)
    with pytest.raises(ValueError, match=r"s003.out' as moog: 2 syntheses in one file"):
        Grid.convert(source, tmp_path / "grid.h5", medium="air")
    (source / "s003.out").write_text(text[:text.rindex("  5190")])
    with pytest.raises(ValueError, match="600 points, but its header says 601: the file is cut"):
        Grid.convert(source, tmp_path / "grid.h5", medium="air")


def test_what_turbospectrum_could_not_do_is_unknown(
    folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flux = FLUX.copy()
    flux[2, 5], flux[3, -1] = -1.0, np.nan  # did not converge; the last one, by old gfortran
    grid = Grid.convert(folder(as_turbospectrum, ".spec", flux=flux), tmp_path / "g.h5",
                        medium="air")
    assert np.argwhere(np.isnan(grid.flux(np.arange(N_SPEC)))).tolist() == [[2, 5], [3, 600]]
    assert "2 fluxes in 2 spectra are NaN, the first in row 2" in caplog.text


def test_falling_wavelengths_are_turned_and_units_taken_as_told(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = folder(flux=FLUX[:, ::-1], wavelength=WAVELENGTH[::-1] / 1e4)
    assert_holds(Grid.convert(source, tmp_path / "grid.h5", medium="air", unit="um"))


def test_a_logarithmic_scale_of_fits_is_read(tmp_path: Path, folder: Callable[..., Path]) -> None:
    wavelength = 5160.0 * np.exp(1e-5 * np.arange(581))

    def write(path: Path, _: NDArray[Any], flux: NDArray[Any]) -> None:
        hdu = fits.PrimaryHDU(np.stack([flux, np.zeros_like(flux)]))
        hdu.header.update(CRVAL1=np.log10(5160.0), CD1_1=1e-5 / np.log(10.0), **{"DC-FLAG": 1})
        hdu.writeto(path)

    flux = spectra(wavelength)
    grid = Grid.convert(folder(write, ".fits", flux=flux), tmp_path / "grid.h5", medium="air")
    assert_holds(grid, flux, wavelength)


def test_the_domain_is_kept(folder: Callable[..., Path], tmp_path: Path) -> None:
    domain = Domain.box([4000.0, 1.0, -2.0], [7000.0, 5.0, 1.0])
    grid = Grid.convert(folder(), tmp_path / "grid.h5", medium="air", domain=domain)
    assert np.array_equal(grid.domain.A, domain.A)
    assert np.array_equal(grid.domain.b, domain.b)


def test_files_without_a_label_are_left_out_and_said(
    folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = folder()
    columns()(source / "extra.txt", WAVELENGTH, FLUX[0])
    assert Grid.convert(source, tmp_path / "grid.h5", medium="air").n_spec == N_SPEC
    assert re.search("1 files .* have no row among the labels .* 'extra.txt'", caplog.text)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("period", [2, 5, 10, 13])
def test_validation_spectra_are_spread_over_every_axis_of_a_table(
    fraction: float, period: int
) -> None:
    split = spread(3000, fraction)
    expected = round(3000 * fraction)
    assert split.sum() == expected
    # Over the file, and over the values that come again and again: no worse than by chance.
    stretches = split.reshape(10, -1).sum(axis=1)
    assert np.abs(stretches - expected / 10).max() <= 1
    values = np.bincount(np.flatnonzero(split) % period, minlength=period)
    assert ((values - expected / period) ** 2).mean() < 2.0 * expected / period
    assert np.array_equal(split, spread(3000, fraction))


def test_no_validation_spectra_may_be_asked_for(
    folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = Grid.convert(folder(), tmp_path / "grid.h5", medium="air", validation=0.0)
    assert len(grid.rows("train")) == N_SPEC
    assert "no spectra for validation" in caplog.text


def test_a_folder_is_never_in_memory_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emulators.conversion.writing.ROWS", 16)
    monkeypatch.setattr("emulators.grid_check.ROWS", 16)
    source, n_spec, n_pix = tmp_path / "many", 300, 5000
    source.mkdir()
    header = fits.Header({"CRVAL1": 4000.0, "CDELT1": 0.02})
    for number in range(n_spec):
        fits.PrimaryHDU(np.ones(n_pix, np.float32), header).writeto(source / f"t{number}.fits")
    # What the first conversion of all imports is none of its own.
    Grid.convert(source, tmp_path / "first.h5", medium="air", pattern=r"t(?P<teff>\d+)")
    tracemalloc.start()
    grid = Grid.convert(source, tmp_path / "grid.h5", medium="air", pattern=r"t(?P<teff>\d+)")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert grid.n_spec == n_spec
    assert peak < 0.5 * n_spec * n_pix * 4


def test_the_file_says_where_it_comes_from(folder: Callable[..., Path], tmp_path: Path) -> None:
    grid = Grid.convert(folder(), tmp_path / "grid.h5", medium="air")
    assert json.loads(json.dumps(grid.provenance))["made_by"]["format"] == "text"
    assert grid.fingerprint == ""
