"""Grids joined: every spectrum keeps its labels, and the first grid stays the measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from emulators import Grid
from emulators.cli import main

WriteGrid = Callable[..., Path]


@pytest.fixture
def first(tmp_path: Path, write_grid: WriteGrid) -> Path:
    return write_grid(tmp_path / "first.h5")


@pytest.fixture
def more(tmp_path: Path, write_grid: WriteGrid) -> Path:
    """As many spectra of other stars, stored in other steps, the labels in another order."""
    path = write_grid(tmp_path / "more.h5", n_spec=300, seed=2)
    order = [2, 0, 3, 1]
    with h5py.File(path, "r+") as file:
        flux = file["flux"][:] / 65535
        names, units = (file["labels"].attrs[k][order] for k in ("names", "units"))
        labels, a = file["labels"][:][:, order], file["domain/A"][:][:, order]
        for name in ("flux", "labels", "domain/A"):
            del file[name]
        file["flux"] = np.round(flux / 2e-5).astype(np.uint16)
        file["flux"].attrs.update(scale=2e-5, offset=0.0)
        file["labels"], file["domain/A"] = labels, a
        file["labels"].attrs.update(names=names, units=units)
    return path


def test_every_spectrum_is_there_with_its_labels(first: Path, more: Path, tmp_path: Path) -> None:
    joined = Grid.join([first, more], tmp_path / "both.h5")
    assert joined.n_spec == 360
    assert joined.label_set.names == Grid(first).label_set.names
    flux = joined.flux(np.arange(360))
    assert np.array_equal(flux[:60], Grid(first).flux(np.arange(60)))
    assert np.array_equal(flux[60:], Grid(more).flux(np.arange(300)))
    for name in joined.label_set.names:
        one, other, both = (g.labels[:, g.label_set.index(name)]
                            for g in (Grid(first), Grid(more), joined))
        assert np.array_equal(both, np.concatenate([one, other]))


def test_the_measure_stays_that_of_the_first(first: Path, more: Path, tmp_path: Path) -> None:
    joined = Grid.join([first, more], tmp_path / "both.h5")
    assert np.array_equal(joined.rows("validation"), Grid(first).rows("validation"))
    assert len(joined.rows("train")) == len(Grid(first).rows("train")) + 300
    parts = joined.provenance["made_by"]["joined"]
    assert [p["grid"] for p in parts] == ["first.h5", "more.h5"]
    assert parts[1]["sha256"] == Grid(more).provenance["sha256"]


@pytest.mark.parametrize(("change", "message"), [
    ("medium", "one is in air, the other in vacuum"),
    ("wavelength", "not on the same wavelengths: 200 pixels"),
    ("label", "not have the same labels: cr_h, mg_h in one alone"),
    ("unit", "logg is in 'dex' and in 'cgs'"),
    ("domain", r"1 spectra of .*more.h5' lie outside the domain of .*first.h5'.*teff"),
    ("leak", "have the labels of one that .*first.h5' holds out, the first in row 7"),
])
def test_grids_that_do_not_belong_together_are_refused(
    first: Path, more: Path, tmp_path: Path, change: str, message: str
) -> None:
    with h5py.File(more, "r+") as file:
        names = file["labels"].attrs["names"].tolist()
        if change == "medium":
            file["wavelength"].attrs["medium"] = "vacuum"
        elif change == "wavelength":
            file["wavelength"][...] *= 1 + 1e-7
        elif change == "label":
            names[names.index("mg_h")] = "cr_h"
            file["labels"].attrs["names"] = names
        elif change == "unit":
            file["labels"].attrs["units"] = [
                "cgs" if n == "logg" else u
                for n, u in zip(names, file["labels"].attrs["units"], strict=True)]
        elif change == "domain":
            file["labels"][3, names.index("teff")] = 9000.0
        else:
            with Grid(first) as grid:
                star = dict(zip(grid.label_set.names, grid.labels[4], strict=True))
            file["labels"][7] = [star[n] for n in names]
    with pytest.raises(ValueError, match=message):
        Grid.join([first, more], tmp_path / "both.h5")
    assert not (tmp_path / "both.h5").exists()


def test_a_grid_that_is_there_is_not_written_over(first: Path, more: Path) -> None:
    before = first.read_bytes()
    with pytest.raises(FileExistsError, match="exists: remove it, or give another name"):
        Grid.join([first, more], first)
    assert first.read_bytes() == before


def test_minus_zero_is_the_label_zero(first: Path, more: Path, tmp_path: Path) -> None:
    with h5py.File(first, "r+") as one, h5py.File(more, "r+") as other:
        one["labels"][4, 2:] = 0.0
        names = one["labels"].attrs["names"].tolist()
        star = dict(zip(names, [*one["labels"][4, :2], -0.0, -0.0], strict=True))
        other["labels"][7] = [star[n] for n in other["labels"].attrs["names"]]
    with pytest.raises(ValueError, match="holds out, the first in row 7"):
        Grid.join([first, more], tmp_path / "both.h5")


def test_one_grid_is_not_joined(first: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give two or more"):
        Grid.join([first], tmp_path / "both.h5")


def test_the_command_joins_what_training_reads(first: Path, more: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.h5"
    said = CliRunner().invoke(main, ["grid", "join", str(first), str(more), "-o", str(out)])
    assert said.exit_code == 0
    assert "360 spectra (348 train)" in said.output
    again = CliRunner().invoke(main, ["grid", "join", str(first), str(tmp_path / "no.h5"),
                                      "-o", str(out)])
    assert again.exit_code != 0
    assert "no grid at" in again.output
