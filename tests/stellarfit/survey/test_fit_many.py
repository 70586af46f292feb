"""A catalogue of many stars: a row for every input, in order, with units and words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import stellarfit
from stellarfit import Flag
from stellarfit.survey.catalogue import alias
from tests.stellarfit.survey.conftest import FREE, SETTINGS


@pytest.fixture
def options(cannon: Path) -> dict[str, Any]:
    return {"emulator": cannon, "progress": False, **SETTINGS}


def test_every_file_is_a_row_and_labels_are_recovered(
    files: Path, options: dict[str, Any], stars: tuple[list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    table = stellarfit.fit_many(files, out=tmp_path / "c.fits", **options)
    assert table["index"].tolist() == list(range(40))
    assert [Path(f).name for f in table["file"]] == [f"star{i:02d}.fits" for i in range(40)]
    assert np.flatnonzero(table["status"] != 0).tolist() == [5, 21]
    assert "cut short" in table["message"][5] or "corrupted" in table["message"][5]
    assert np.isnan(table["teff"][[5, 21]]).all()
    for flag in ("flag_bad", "flag_warn"):
        assert table[flag][[5, 21]].all()
    assert (table["flags"][[5, 21]] == Flag.NO_FIT).all()
    assert (table["mg_fe_flags"][[5, 21]] == 2).all()
    good = table["status"] == 0
    assert table["name"][good].tolist() == [f"s{i}" for i in np.flatnonzero(good)]
    for name in FREE:
        pull = (table[name] - stars[1][name])[good] / table[f"e_{name}"][good]
        assert np.abs(np.mean(pull)) < 0.6
        assert 0.6 < np.std(pull) < 1.5


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "parquet"])
def test_a_catalogue_is_read_back_as_it_was(
    suffix: str, options: dict[str, Any], stars: tuple[list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"c.{suffix}"
    table = stellarfit.fit_many([*stars[0][:3], tmp_path / "absent.fits"], out=path, **options)
    again = Table.read(path)
    assert again.colnames == table.colnames
    for name in table.colnames:
        kind = table[name].dtype.kind
        # ECSV has no word for an empty text
        found = (np.ma.filled(again[name], "").astype(np.str_) if kind == "U"
                 else np.asarray(again[name]))
        assert np.array_equal(np.asarray(table[name]), found, equal_nan=kind == "f")
    assert str(again["rv"].unit) == "km / s"
    assert again.meta["EMULATOR"] == table.meta["EMULATOR"]
    assert "resolution" in again.meta["SETTINGS"]


def test_fits_carries_descriptions_and_checksums(
    options: dict[str, Any], stars: tuple[list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "c.fits"
    stellarfit.fit_many(stars[0][:2], out=path, **options)
    with fits.open(path, checksum=True) as hdus:
        header = hdus[1].header
        column = header["TTYPE*"]
        teff = next(k for k, v in column.items() if v == "teff").removeprefix("TTYPE")
        assert header[f"TCOMM{teff}"] == "effective temperature"
        assert header[f"TUNIT{teff}"] == "K"
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="verification failed"), \
            fits.open(path, checksum=True) as hdus:
        _ = hdus[1].data


def test_models_are_kept_in_full_when_asked(
    options: dict[str, Any], stars: tuple[list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    table = stellarfit.fit_many([tmp_path / "absent.fits", *stars[0][:2]],
                                models=tmp_path / "models.h5", **options)
    with h5py.File(tmp_path / "models.h5") as file:
        assert sorted(file) == ["1", "2"]
        assert len(file["1"]["model"]) == len(stars[0][0])
        assert file["2"]["values"][0] == table["teff"][2]
    again = stellarfit.survey.result(tmp_path / "models.h5", 2)
    assert again.labels["teff"] == table["teff"][2]
    with pytest.raises(ValueError, match="no result of a star 0"):
        stellarfit.survey.result(tmp_path / "models.h5", 0)


def test_aliases_are_those_of_the_surveys(
    options: dict[str, Any], stars: tuple[list[Any], dict[str, Any]]
) -> None:
    galah = stellarfit.fit_many(stars[0][:1], aliases="galah", **options)
    assert {"teff", "e_teff", "mg_fe", "e_mg_fe", "flag_mg_fe", "flag_sp"} <= set(galah.colnames)
    assert [alias(n, "apogee") for n in ("teff", "e_teff", "mg_fe", "e_mg_fe", "mg_fe_flags",
                                         "flags", "e_rv")] == [
        "TEFF", "TEFF_ERR", "MG_FE", "MG_FE_ERR", "MG_FE_FLAG", "ASPCAPFLAG", "VERR"]


def test_what_cannot_be_is_said_before_anything_is_fitted(
    options: dict[str, Any], stars: tuple[list[Any], dict[str, Any]], tmp_path: Path
) -> None:
    for wrong, said in (
        ({"spectra": stars[0][:1], "out": "c.csv"}, "a catalogue is .fits, .ecsv or .parquet"),
        ({"spectra": []}, "no spectra"),
        ({"spectra": str(tmp_path / "*.fits")}, "no file matches"),
        ({"spectra": stars[0][:1], "aliases": "gaia", "free": ["teff"]},
         "unknown aliases 'gaia'"),
        ({"spectra": stars[0][0]}, "takes a list of stars"),
        ({"spectra": {"b": stars[0][0]}}, "takes a list of stars"),
        ({"spectra": stars[0][:1], "free": ["rv", "vanadium"]}, "unknown parameter"),
    ):
        with pytest.raises(ValueError, match=said):
            stellarfit.fit_many(wrong.pop("spectra"), **{**options, **wrong})
