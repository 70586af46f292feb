"""Grids looked at: what is wrong is found, what is right is not, and the commands say it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from emulators import Grid
from emulators.air import air_to_vacuum, vacuum_to_air
from emulators.cli import main
from emulators.conversion.fits import read_fits
from emulators.grid_check import AIR_LINES, VACUUM_LINES, check, medium_by_lines
from emulators.grid_plot import plot_grid, varying
from emulators.grid_summary import as_text, summary


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def findings(path: Path, severity: str) -> list[str]:
    return [f.text for f in check(Grid(path)) if f.severity == severity]


def as_floats(path: Path, spoil: Callable[[NDArray[np.float32]], None]) -> None:
    """Store the fluxes of a grid in float32, changed."""
    with Grid(path) as grid:
        flux = grid.flux(np.arange(grid.n_spec))
    spoil(flux)
    with h5py.File(path, "r+") as file:
        del file["flux"]
        file["flux"] = flux


def test_nothing_is_found_in_a_sound_grid(grid: Grid) -> None:
    assert check(grid) == []


@pytest.mark.parametrize("name", ["mgb-fgk", "mgb-target", "mgb-pretrain"])
def test_the_reference_grids_have_no_errors(grids_folder: Path, name: str) -> None:
    found = check(Grid(grids_folder / f"{name}.h5"))
    assert [f.severity for f in found] == ["warning"]
    assert found[0].text.startswith("the same in all spectra: ")


def _set(row: int, columns: Any, value: float) -> Callable[[NDArray[np.float32]], None]:
    def spoil(flux: NDArray[np.float32]) -> None:
        flux[row, columns] = value
    return spoil


@pytest.mark.parametrize(("spoil", "severity", "text"), [
    (_set(7, [3, 5], np.nan), "warning", "2 fluxes in 1 spectra are NaN, the first in row 7"),
    (_set(9, 3, np.inf), "error", "1 infinite fluxes in 1 spectra, the first in row 9"),
    (_set(11, 3, 1.6), "warning", "1 fluxes in 1 spectra lie outside 0 to 1.5, the first in row 1"),
    (_set(12, slice(20), -0.5), "error", "1 spectra lie outside 0 to 1.5 in more than 1% of their"),
    (lambda flux: np.multiply(flux, 0.6, out=flux), "warning", "19 in 20 pixels of the mean spect"),
    (lambda flux: np.multiply(flux, 3e4, out=flux), "error", "60 spectra lie outside 0 to 1.5"),
])
def test_bad_fluxes_are_counted_and_placed(
    write_grid: Callable[..., Path], spoil: Callable[[Any], None], severity: str, text: str
) -> None:
    path = write_grid()
    as_floats(path, spoil)
    other = {"error": "warning", "warning": "error"}[severity]
    assert [f.startswith(text) for f in findings(path, severity)] == [True]
    assert findings(path, other) == []


Spoil = Callable[[h5py.File], None]


def _labels(rows: Any, columns: Any, value: float) -> Spoil:
    def spoil(file: h5py.File) -> None:
        labels = file["labels"][:]
        labels[rows, columns] = value
        file["labels"][:] = labels
    return spoil


def _twice(file: h5py.File) -> None:
    file["labels"][8:12] = file["labels"][4:8]


def _from_the_sun(file: h5py.File) -> None:
    del file["domain"]
    file["labels"][:, 3] = file["labels"][:, 3] + 7.6


def _in_thousands(file: h5py.File) -> None:
    del file["domain"]
    file["labels"][:, 0] = file["labels"][:, 0] / 1000.0


def _in_nm(file: h5py.File) -> None:
    file["wavelength"][:] = file["wavelength"][:] / 10.0


def _split(first: int, value: int) -> Spoil:
    def spoil(file: h5py.File) -> None:
        file["split"][:] = 1 - value
        file["split"][:first] = value
    return spoil


@pytest.mark.parametrize(("spoil", "severity", "text"), [
    (_labels(slice(None), 1, 4.5), "warning", "the same in all spectra: logg; an emulator"),
    (_labels(13, 1, 5.5), "error", "1 spectra lie outside the grid's own domain, the first in row "
                                   "13 (logg = 5.5, but logg must be at most 5)"),
    (_twice, "warning", "4 spectra have the labels of another, the first those of row 4"),
    (_from_the_sun, "warning", "mg_h reaches 8.3"),
    (_in_thousands, "warning", "teff is at most 6.4"),
    (_in_nm, "warning", "the wavelengths run from 516 to 518.058 Å: are they in nm?"),
    (_split(4, 1), "warning", "4 spectra for validation"),
    (_split(0, 1), "warning", "no spectra for validation"),
    (_split(0, 0), "error", "no spectrum is for training"),
])
def test_labels_wavelengths_and_splits_are_looked_at(
    write_grid: Callable[..., Path], spoil: Spoil, severity: str, text: str
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        spoil(file)
    assert [f for f in findings(path, severity) if f.startswith(text)]


def absorption(wavelength: NDArray[Any], lines: Any, width: float = 0.3) -> NDArray[np.float64]:
    """Return a spectrum with Gaussian lines and a forest of weaker ones."""
    forest = np.random.default_rng(0).uniform(wavelength[0], wavelength[-1], 40)
    tau = 1.5 * np.exp(-0.5 * ((wavelength[:, None] - np.asarray(lines)) / width) ** 2).sum(axis=1)
    tau += 0.4 * np.exp(-0.5 * ((wavelength[:, None] - forest) / 0.1) ** 2).sum(axis=1)
    return np.asarray(np.exp(-tau))


MG_B = (5167.321, 5172.684, 5183.604)


@pytest.mark.parametrize(("lines", "severity"), [(MG_B, "error"), (MG_B[2:], "warning")])
def test_a_grid_labelled_vacuum_with_air_wavelengths_is_found_out(
    write_grid: Callable[..., Path], lines: tuple[float, ...], severity: str
) -> None:
    path = write_grid(n_pix=3000)
    with h5py.File(path, "r+") as file:
        low = 5150.0 if len(lines) > 1 else 5178.0
        wavelength = low * np.exp(3e-6 * np.arange(3000))
        file["wavelength"][:] = wavelength
        file["flux"][:] = np.round(absorption(wavelength, lines) * 65535).astype(np.uint16)
    assert not [f for f in findings(path, severity) if "medium" in f]
    with h5py.File(path, "r+") as file:
        file["wavelength"].attrs["medium"] = "vacuum"
    assert [f for f in findings(path, severity)
            if "said to be in vacuum, but these look like air" in f]
    with h5py.File(path, "r+") as file:
        file["wavelength"][:] = air_to_vacuum(wavelength)
    assert not [f for f in findings(path, severity) if "medium" in f]
    with h5py.File(path, "r+") as file:
        file["wavelength"].attrs["medium"] = "air"
    assert [f for f in findings(path, severity)
            if "said to be in air, but these look like vacuum" in f]


KNOWN = np.array([*AIR_LINES, *vacuum_to_air(np.array(VACUUM_LINES))])


@pytest.mark.parametrize("line", KNOWN)
@pytest.mark.parametrize("stated", ["air", "vacuum"])
def test_each_line_tells_the_medium_at_any_resolution(line: float, stated: str) -> None:
    for width in (2e-5, 5e-5, 1e-4):
        air = np.arange(line * (1 - 1e-3), line * (1 + 1e-3), 5e-6 * line)
        mean = absorption(air, KNOWN, width * line)
        assert medium_by_lines(air, mean, stated) == "air"
        assert medium_by_lines(air_to_vacuum(air), mean, stated) == "vacuum"


def test_without_known_lines_nothing_is_said_of_the_medium() -> None:
    wavelength = np.arange(6000.0, 6100.0, 0.02)
    assert medium_by_lines(wavelength, absorption(wavelength, [6050.0]), "air") is None
    around = np.arange(5150.0, 5200.0, 0.02)
    assert medium_by_lines(around, np.ones_like(around), "air") is None
    assert medium_by_lines(around, np.full_like(around, np.nan), "air") is None
    assert medium_by_lines(around, 2.0 - absorption(around, MG_B), "air") is None  # emission
    coarse = np.arange(5150.0, 5200.0, 1.0)
    assert medium_by_lines(coarse, absorption(coarse, MG_B), "air") is None


@pytest.mark.parametrize("line", [x for x in AIR_LINES if 4862 < x + 20 < 6780])
def test_every_line_of_a_real_star_tells_the_medium(spectra_folder: Path, line: float) -> None:
    star = read_fits(spectra_folder / "procyon_harps.fits")  # its velocity is taken out
    near = np.abs(star.wavelength - line) < 15.0
    wavelength, flux = star.wavelength[near], star.flux[near]
    flux = flux / np.percentile(flux, 97)
    assert medium_by_lines(wavelength, flux, "air") == "air"
    assert medium_by_lines(wavelength, flux, "vacuum") == "air"
    assert medium_by_lines(air_to_vacuum(wavelength), flux, "air") == "vacuum"


def test_errors_come_first(write_grid: Callable[..., Path]) -> None:
    path = write_grid()
    as_floats(path, lambda flux: (_set(7, 3, np.nan)(flux), _set(9, 3, np.inf)(flux))[0])
    assert [f.severity for f in check(Grid(path))] == ["error", "warning"]


def test_the_check_command_prints_what_it_found_and_fails_for_errors(
    grid_path: Path, write_grid: Callable[..., Path]
) -> None:
    sound = run("grid", "check", grid_path)
    assert (sound.exit_code, sound.stdout) == (0, "nothing wrong was found in small.h5\n")
    path = write_grid()
    as_floats(path, _set(7, 3, np.nan))
    warned = run("grid", "check", path)
    assert warned.exit_code == 0
    assert warned.stdout.startswith("warning: 1 fluxes in 1 spectra are NaN")
    as_floats(path, _set(9, 3, np.inf))
    failed = run("grid", "check", path, "--json")
    assert failed.exit_code == 1
    assert [f["severity"] for f in json.loads(failed.stdout)] == ["error", "warning"]
    assert failed.stderr == ""


def test_the_info_command_says_what_is_in_a_grid(write_grid: Callable[..., Path]) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        file["labels"][:, 1] = 4.5
        file.create_dataset("failed/reason", dtype=h5py.string_dtype(), data=["hot", "hot", "dim"])
    result = run("grid", "info", path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "own.h5: 60 spectra (48 train, 12 validation)"
    assert "5160.000-5180.578 Å in air, 200 pixels, λ/Δλ = 50000" in lines[1]
    assert Grid(path).provenance["sha256"] in lines[2]
    assert "    code  twelve lines" in lines
    assert [line.split() for line in lines if "hot" in line] == [["2", "hot"]]
    assert "  failed      3 spectra" in lines
    assert lines[-1] == "  fixed       logg = 4.5"
    rows = [line.split()[0] for line in lines[lines.index(
        next(x for x in lines if x.split()[0] == "label")) + 1:-1]]
    assert rows == ["teff", "fe_h", "mg_h"]
    content = json.loads(run("grid", "info", path, "--json").stdout)
    assert content["splits"] == {"train": 48, "validation": 12, "test": 0}
    assert content["failed"] == {"hot": 2, "dim": 1}
    assert content["labels"][0]["unit"] == "K"
    assert content["labels"][0]["values"] == 60


@pytest.mark.parametrize(("wavelength", "words"), [
    (np.linspace(5000.0, 5199.0, 200), "every 1 Å"),
    (5000.0 + np.arange(200.0) ** 1.2, "1 to 3.457 Å, uneven"),
])
def test_sampling_is_named(
    write_grid: Callable[..., Path], wavelength: NDArray[Any], words: str
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        file["wavelength"][:] = wavelength
        file.attrs["provenance"] = "by hand"
    assert words in as_text(summary(Grid(path)))
    assert "    by hand" in as_text(summary(Grid(path)))


def test_a_picture_is_drawn_of_any_grid(
    grid: Grid, write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    assert run("grid", "plot", grid.path, "-o", tmp_path / "grid.png").exit_code == 0
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    path = write_grid(n_spec=3)
    with h5py.File(path, "r+") as file:
        file["labels"][:, 1:] = 0.0
        file["split"][:] = 0
        del file["domain"]
    assert varying(Grid(path)) == ["teff"]
    figure = plot_grid(Grid(path))
    assert "1 of 4 labels vary" in figure.subfigs[0].get_suptitle()
    with h5py.File(path, "r+") as file:
        file["labels"][...] = 0.0
    assert "0 of 4 labels vary" in plot_grid(Grid(path)).subfigs[0].get_suptitle()


def test_a_picture_without_matplotlib_says_what_to_install(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'stellarfit\[plot\]'"):
        plot_grid(grid)


def test_the_convert_command_makes_a_grid_and_says_what_it_did(tmp_path: Path) -> None:
    source = tmp_path / "spectra"
    source.mkdir()
    wavelength = np.linspace(5160.0, 5190.0, 300)
    rows = ["file,Teff,[Fe/H],run"]
    for number in range(20):
        np.savetxt(source / f"{number}.txt",
                   np.column_stack([wavelength, absorption(wavelength, MG_B)]))
        rows.append(f"{number}.txt,{4500 + 100 * number},{-0.1 * number},{number}")
    (source / "labels.csv").write_text("\n".join(rows))
    command = ["grid", "convert", source, "-o", tmp_path / "g.h5", "--medium", "air"]
    refused = run(*command)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: cannot tell what 'run' of the columns Teff, [Fe/H],")
    assert refused.stderr.count("\n") == 1
    made = run(*command, "--names", "teff,fe_h", "--validation", 0.5)
    assert made.exit_code == 0, made.output
    assert "labels renamed: Teff -> teff, [Fe/H] -> fe_h" in made.stderr
    assert made.stdout.startswith("<Grid 'g.h5': 20 spectra (10 train), 300 pixels, 5160.0-5190.0")
    assert Grid(tmp_path / "g.h5").label_set.names == ("teff", "fe_h")
    assert run("grid", "check", tmp_path / "g.h5").exit_code == 0


@pytest.mark.parametrize("command", ["info", "check", "plot", "convert"])
def test_help_gives_an_example(command: str) -> None:
    result = run("grid", command, "--help")
    assert f"emulators grid {command} " in result.stdout.split("Example", 1)[1]


@pytest.mark.parametrize("command", ["info", "check", "plot"])
def test_a_missing_grid_is_one_line(command: str, tmp_path: Path) -> None:
    out = ["-o", tmp_path / "x.png"] if command == "plot" else []
    result = run("grid", command, tmp_path / "nowhere.h5", *out)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no grid at")
