"""What there is to fit: in order, each once; tables with a spectrum in every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import stellarfit
from stellarfit.readers.tables import TableOfSpectra, is_table
from stellarfit.survey.targets import Files, Target, find_targets
from tests.stellarfit.survey.conftest import SETTINGS, write


def test_folders_and_patterns_are_sorted_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", ".hidden", "c.fits"):
        (tmp_path / name).write_text("1 1\n")
    names = [Path(t.file).name for t in find_targets(tmp_path)]
    assert names == ["a.txt", "b.txt", "c.fits"]
    assert [Path(t.file).name for t in find_targets([str(tmp_path / "*.txt"), "gone.fits"])] == [
        "a.txt", "b.txt", "gone.fits"]


def test_an_input_is_one_row_and_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 1\n")
    with pytest.raises(ValueError, match="given more than once"):
        find_targets([tmp_path / "a.txt", tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no spectra in"):
        find_targets(tmp_path / "empty")
    with pytest.raises(ValueError, match="no spectra"):
        find_targets([])
    with pytest.raises(ValueError, match="there is no 'nosuch', nor any other of 2 inputs"):
        find_targets(["nosuch", "gone.fits"])


def as_fits(stars: list[Any], path: Path) -> None:
    Table({"flux": [s.flux for s in stars], "ivar": [s.ivar for s in stars],
           "wavelength": [s.wavelength for s in stars],
           "source_id": [str(1000 + i) for i in range(len(stars))]},
          meta={"MEDIUM": "air"}).write(path)


def as_fits_with_shared_wavelengths(stars: list[Any], path: Path) -> None:
    table = Table({"flux": [s.flux for s in stars], "ivar": [s.ivar for s in stars],
                   "source_id": [1000 + i for i in range(len(stars))]}, meta={"MEDIUM": "air"})
    image = fits.ImageHDU(stars[0].wavelength / 10.0, name="WAVELENGTH")
    image.header["BUNIT"] = "nm"
    fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(table), image]).writeto(path)


def as_parquet(stars: list[Any], path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"wavelength": [s.wavelength for s in stars],
                         "flux": [s.flux for s in stars], "ivar": [s.ivar for s in stars],
                         "source_id": [1000 + i for i in range(len(stars))]})
    parquet.write_table(table.replace_schema_metadata({"medium": "air"}), path, row_group_size=2)


def as_parquet_by_astropy(stars: list[Any], path: Path) -> None:
    pytest.importorskip("pyarrow")
    as_fits(stars, path)


@pytest.mark.parametrize("make", [as_fits, as_fits_with_shared_wavelengths, as_parquet,
                                  as_parquet_by_astropy])
def test_a_table_of_spectra_is_as_good_as_files(
    make: Any, stars: tuple[list[Any], dict[str, Any]], cannon: Path, tmp_path: Path
) -> None:
    path = tmp_path / ("t.parquet" if "parquet" in make.__name__ else "t.fits")
    make(stars[0][:5], path)
    assert find_targets(path) == [Target(str(path), i) for i in range(5)]
    assert list(stellarfit.read_all(path)) == [str(1000 + i) for i in range(5)]
    options = {"emulator": cannon, "progress": False, **SETTINGS}
    table = stellarfit.fit_many(path, **options)
    assert table["name"].tolist() == [str(1000 + i) for i in range(5)]
    assert table["star"].tolist() == list(range(5))
    direct = stellarfit.fit_many(stars[0][:5], **options)
    np.testing.assert_allclose(table["teff"], direct["teff"], rtol=1e-7)


def test_a_table_that_does_not_say_its_medium_is_refused_row_by_row(
    stars: tuple[list[Any], dict[str, Any]], cannon: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t.fits"
    Table({"flux": [s.flux for s in stars[0][:2]],
           "wavelength": [s.wavelength for s in stars[0][:2]]}).write(path)
    table = stellarfit.fit_many(path, emulator=cannon, progress=False, **SETTINGS)
    assert (table["status"] == 2).all()
    assert "--medium" in table["message"][0]


def test_the_name_of_a_column_says_medium_and_unit(
    stars: tuple[list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    some = stars[0][:2]
    flux = {"flux": [s.flux for s in some], "ivar": [s.ivar for s in some]}
    Table({**flux, "wavelength_vac [nm]": [s.wavelength / 10.0 for s in some]}).write(
        tmp_path / "named.fits")
    read = list(stellarfit.read_all(tmp_path / "named.fits").values())[1]
    assert read.medium == "vacuum"
    assert len(find_targets(tmp_path / "named.fits")) == 2
    np.testing.assert_allclose(read.wavelength, some[1].wavelength)
    with pytest.raises(ValueError, match="are in vacuum by the name of their column"):
        stellarfit.read_all(tmp_path / "named.fits", medium="air")
    Table({**flux, "loglam": [np.log(s.wavelength) for s in some]},
          meta={"MEDIUM": "air"}).write(tmp_path / "natural.fits")
    read = next(iter(stellarfit.read_all(tmp_path / "natural.fits").values()))
    np.testing.assert_allclose(read.wavelength, some[0].wavelength)
    Table({**flux, "wavelength": [s.wavelength for s in some],
           "wavelength_air": [s.wavelength + 1.0 for s in some]},
          meta={"MEDIUM": "vacuum"}).write(tmp_path / "both.fits")
    read = next(iter(stellarfit.read_all(tmp_path / "both.fits").values()))
    assert read.medium == "air"  # the column that names its medium, as in a file of one star
    np.testing.assert_allclose(read.wavelength, some[0].wavelength + 1.0)


@pytest.mark.parametrize("suffix", ["fits", "parquet"])
def test_units_and_frame_of_a_table_are_those_of_a_file(
    suffix: str, stars: tuple[list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path, some = tmp_path / f"t.{suffix}", stars[0][:4]
    table = Table({"flux": [s.flux for s in some], "ivar": [1e-6 * s.ivar for s in some],
                   "wavelength": [s.wavelength / 10.0 for s in some], "flags": [0, 1, 2, 3]},
                  meta={"MEDIUM": "vac", "SPECSYS": "BARYCENT"})
    table["flux"].unit, table["ivar"].unit, table["wavelength"].unit = "Jy", "mJy-2", "nm"
    table.write(path)
    read = TableOfSpectra(path)
    assert len(read) == 4
    assert [len(read[-1]), len(read[1:3])] == [len(some[3]), 2]
    np.testing.assert_allclose(read[-1].flux, some[3].flux)
    np.testing.assert_allclose(read[0].ivar, some[0].ivar)
    np.testing.assert_allclose(read[0].wavelength, some[0].wavelength)
    assert (read[0].medium, read[0].meta["flux_unit"]) == ("vacuum", "Jy")
    if suffix == "fits":
        assert read[0].frame == "barycentric"


def test_what_a_row_of_parquet_lacks_is_left_out(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    flux = np.random.default_rng(0).normal(1.0, 0.01, 50)
    table = arrow.table({"wavelength_vac": [np.arange(5000.0, 5050.0)] * 2, "flux": [flux] * 2,
                         "ivar": [np.full(50, 1e4), None], "name": ["a", None]})
    parquet.write_table(table, tmp_path / "t.parquet")
    given, lacking = TableOfSpectra(tmp_path / "t.parquet")
    assert (given.name, given.noise_estimated) == ("a", False)
    assert (lacking.name, lacking.noise_estimated) == ("1", True)
    assert (lacking.medium, lacking.meta["medium_from"]) == ("vacuum", "header")


def test_an_empty_table_is_a_row_too(cannon: Path, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"wavelength": arrow.array([], arrow.list_(arrow.float64())),
                         "flux": arrow.array([], arrow.list_(arrow.float64()))})
    parquet.write_table(table.replace_schema_metadata({"medium": "air"}), tmp_path / "e.parquet")
    found = stellarfit.fit_many(tmp_path / "e.parquet", emulator=cannon, progress=False,
                                **SETTINGS)
    assert found["status"].tolist() == [2]
    assert "has 0 stars" in found["message"][0]


def test_a_single_spectrum_is_no_table(stars: tuple[list[Any], dict[str, Any]],
                                       tmp_path: Path) -> None:
    write(stars[0][0], tmp_path / "one.fits", "one")
    assert not is_table(tmp_path / "one.fits")
    (tmp_path / "text.txt").write_text("5000 1\n5001 1\n")
    assert not is_table(tmp_path / "text.txt")


def test_files_of_one_star_in_the_archive_are_counted_as_one(spectra_folder: Path) -> None:
    files = sorted(p for p in spectra_folder.iterdir() if p.suffix == ".fits")
    counts = {p.name: len(find_targets(p)) for p in files}
    for name, count in counts.items():
        stars = stellarfit.read_all(spectra_folder / name, medium=None) if count > 1 else {0: 0}
        assert len(stars) == count, name


def test_a_star_that_a_file_no_longer_has_is_said(
    stars: tuple[list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    write(stars[0][0], tmp_path / "one.fits", "one")
    with pytest.raises(ValueError, match="has 1 stars, and none of number 3"):
        Files()(Target(str(tmp_path / "one.fits"), 3))
