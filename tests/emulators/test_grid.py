"""Grids: the format, lazy reading, and what a broken file is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulators import Grid


def test_a_grid_describes_what_the_file_holds(grid: Grid) -> None:
    assert grid.label_set.names == ("teff", "logg", "fe_h", "mg_h")
    assert grid.label_set.units == ("K", "dex", "dex", "dex")
    assert (grid.n_spec, grid.n_pix, grid.medium) == (60, 200, "air")
    assert grid.wavelength.dtype == np.float64
    assert (len(grid.rows("train")), len(grid.rows("validation"))) == (48, 12)
    assert repr(grid) == (
        "<Grid 'small.h5': 60 spectra (48 train), 200 pixels, 5160.0-5180.6 Å air, 4 labels>"
    )


def test_every_spectrum_of_a_grid_lies_in_its_domain(grid: Grid) -> None:
    assert grid.domain.contains(grid.labels).all()


def test_fluxes_are_offset_plus_scale_times_stored(write_grid: Callable[..., Path]) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        stored = file["flux"][:]
        file["flux"].attrs.update(scale=0.5, offset=-3.0)
    flux = Grid(path).flux(np.arange(60))
    assert flux.dtype == np.float32
    np.testing.assert_allclose(flux, 0.5 * stored - 3.0)


def test_float_fluxes_need_no_scale(write_grid: Callable[..., Path]) -> None:
    path = write_grid()
    expected = Grid(path).flux(np.arange(60))
    with h5py.File(path, "r+") as file:
        del file["flux"]
        file["flux"] = expected
    assert np.array_equal(Grid(path).flux(np.arange(60)), expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 59), min_size=1, max_size=20))
def test_lazy_reading_equals_cached_reading(grid_path: Path, rows: list[int]) -> None:
    with Grid(grid_path, memory=0) as lazy, Grid(grid_path) as cached:
        assert np.array_equal(lazy.flux(np.array(rows)), cached.flux(np.array(rows)))


def test_repeated_and_unsorted_rows_come_as_asked(grid_path: Path) -> None:
    with Grid(grid_path, memory=0) as grid:
        flux = grid.flux(np.array([7, 3, 7]))
        assert np.array_equal(flux[0], flux[2])
        assert np.array_equal(flux[1], grid.flux(np.array([3]))[0])


def test_a_mask_chooses_the_rows_where_it_is_true(grid: Grid) -> None:
    assert np.array_equal(grid.flux(grid.split == 1), grid.flux(grid.rows("validation")))


@pytest.mark.parametrize("rows", [[-1], [60], np.ones(59, dtype=bool)])
def test_rows_that_are_not_there_are_refused(grid: Grid, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"has rows 0 to 59: give their numbers, or a mask"):
        grid.flux(rows)


def test_without_a_domain_the_labels_span_a_box(write_grid: Callable[..., Path]) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        del file["domain"]
    grid = Grid(path)
    assert grid.domain.contains(grid.labels).all()
    assert not grid.domain.contains(grid.labels.max(axis=0) + 0.01)


def test_without_a_split_all_spectra_are_for_training(write_grid: Callable[..., Path]) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        del file["split"]
    assert len(Grid(path).rows("train")) == 60


def test_names_and_medium_may_be_stored_as_bytes(write_grid: Callable[..., Path]) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        file["wavelength"].attrs["medium"] = np.bytes_(b"vacuum")
        file["labels"].attrs["names"] = np.array([b"teff", b"logg", b"fe_h", b"mg_h"])
    grid = Grid(path)
    assert (grid.medium, grid.label_set.names[0]) == ("vacuum", "teff")


def test_an_unknown_split_lists_the_valid_ones(grid: Grid) -> None:
    with pytest.raises(ValueError, match="unknown split 'dev'; valid: train, validation, test"):
        grid.rows("dev")


def test_the_test_spectra_are_neither_learnt_from_nor_chosen_by(
    write_grid: Callable[..., Path]
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        file["split"][:12] = 2
    grid = Grid(path)
    assert grid.rows("test").tolist() == list(range(12))
    rows = [set(grid.rows(split).tolist()) for split in ("train", "validation", "test")]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 60


def test_rows_that_were_kept_are_not_read_again(grid_path: Path) -> None:
    kept, asked = np.array([3, 7, 20, 41]), np.array([41, 7, 7])
    expected = Grid(grid_path).flux(asked)
    grid = Grid(grid_path)
    grid.keep(kept)
    assert np.array_equal(grid.flux(np.array([20, 50])), Grid(grid_path).flux(np.array([20, 50])))
    grid.close()
    assert np.array_equal(grid.flux(asked), expected)


def test_rows_that_do_not_fit_the_memory_are_not_kept(grid_path: Path) -> None:
    grid = Grid(grid_path, memory=2 * 200 * 4 - 1)  # a byte less than four rows of uint16
    grid.keep(np.arange(4))
    grid.close()
    with pytest.raises(KeyError):  # it needs the file
        grid.flux(np.arange(4))


def test_pixels_weigh_one_unless_the_file_says_otherwise(write_grid: Callable[..., Path]) -> None:
    path = write_grid()
    assert np.array_equal(Grid(path).weight, np.ones(200))
    weight = np.linspace(0.0, 2.0, 200)
    with h5py.File(path, "r+") as file:
        file["weight"] = weight
    assert np.array_equal(Grid(path).weight, weight)


Spoil = Callable[[h5py.File], None]


def _without(name: str) -> Spoil:
    def spoil(file: h5py.File) -> None:
        del file[name]
    return spoil


def _replaced(name: str, content: object) -> Spoil:
    def spoil(file: h5py.File) -> None:
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = content
        file[name].attrs.update(attributes)
    return spoil


def _new(name: str, content: object) -> Spoil:
    def spoil(file: h5py.File) -> None:
        file[name] = content
    return spoil


def _attribute(name: str, key: str, value: object) -> Spoil:
    def spoil(file: h5py.File) -> None:
        file[name].attrs[key] = value
    return spoil


def _without_names(file: h5py.File) -> None:
    del file["labels"].attrs["names"]


def _group_for_flux(file: h5py.File) -> None:
    del file["flux"]
    file.create_group("flux")


@pytest.mark.parametrize(("spoil", "sentence"), [
    (_without("flux"), "is not a grid: it has no /flux"),
    (_group_for_flux, "is not a grid: it has no /flux"),
    (_without("labels"), "it has no /labels"),
    (_replaced("flux", np.zeros(200)), r"/flux has shape \(200,\), expected 2-d"),
    (_replaced("flux", np.zeros((60, 10))), r"flux \(60, 10\), wavelength .* do not belong"),
    (_replaced("labels", np.zeros((7, 4))), "do not belong together"),
    (_replaced("labels", np.zeros((0, 4))), r"/labels has shape \(0, 4\)"),
    (_replaced("labels", np.full((60, 4), np.nan)), "some labels are not finite"),
    (_replaced("wavelength", np.arange(200.0)[::-1]), "wavelengths must increase"),
    (_replaced("wavelength", np.full(200, np.nan)), "wavelengths must increase"),
    (_replaced("split", np.zeros(3, np.uint8)), r"/split has shape \(3,\)"),
    (_new("weight", np.ones(199)), "/weight must be 200 numbers of at least 0"),
    (_new("weight", np.linspace(-0.1, 1.0, 200)), "/weight must be 200 numbers of at least 0"),
    (_new("weight", np.full(200, np.nan)), "/weight must be 200 numbers of at least 0"),
    (_replaced("domain/A", np.zeros((10, 3))), "the domain limits 3 labels, but there are 4"),
    (_replaced("domain/b", np.zeros(3)), "a domain needs A of shape"),
    (_attribute("wavelength", "unit", "nm"), "has wavelengths in nm, expected Angstrom"),
    (_attribute("wavelength", "medium", "water"), "air or vacuum: set the attribute 'medium'"),
    (_attribute("labels", "names", ["teff", "logg"]), "2 label names for 4 columns"),
    (_attribute("labels", "names", ["teff"] * 4), "label names must be unique"),
    (_without_names, "/labels has no attribute 'names'"),
])
def test_a_broken_file_gets_one_sentence(
    write_grid: Callable[..., Path], spoil: Spoil, sentence: str
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(ValueError, match=sentence) as caught:
        Grid(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no grid at .*nowhere\.h5"):
        Grid(tmp_path / "nowhere.h5")


@pytest.mark.parametrize("content", [b"", b"wavelength,flux\n1,2\n"])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "grid.h5").write_bytes(content)
    with pytest.raises(ValueError, match="is not an HDF5 file"):
        Grid(tmp_path / "grid.h5")


def test_a_truncated_grid_is_refused(write_grid: Callable[..., Path]) -> None:
    path = write_grid()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"is not an HDF5 file: .*truncated"):
        Grid(path)


def _write_large(path: Path, n_spec: int, n_pix: int) -> None:
    """Write 4 bytes per flux of smooth spectra, one compressed chunk again and again."""
    import zlib

    rows = 8
    spectra = 1.0 - 0.5 * np.exp(-np.linspace(-3, 3, n_pix) ** 2) * np.linspace(0, 1, rows)[:, None]
    chunk = zlib.compress(spectra.astype(np.float32).round(3).tobytes(), 1)
    with h5py.File(path, "w") as file:
        flux = file.create_dataset("flux", (n_spec, n_pix), np.float32, chunks=(rows, n_pix),
                                   compression="gzip", compression_opts=1)
        for start in range(0, n_spec, rows):
            flux.id.write_direct_chunk((start, 0), chunk)
        file["wavelength"] = np.linspace(5150.0, 5300.0, n_pix)
        file["wavelength"].attrs.update(unit="Angstrom", medium="air")
        file["labels"] = np.arange(n_spec, dtype=np.float32)[:, None] % rows
        file["labels"].attrs["names"] = ["teff"]
        file["split"] = (np.arange(n_spec) % 25 == 0).astype(np.uint8)


WITHIN_AN_ALLOWANCE = """
import resource, sys
import numpy as np
import emulators

path, allowance = sys.argv[1], int(sys.argv[2])
# What torch, its allocator and its threads reserve once is not what is measured.
options = {"dim": 8, "layers": 1, "heads": 2, "tokens": 2, "n_period": 4, "head": 8}
settings = {"batch": 16, "pixels": 64, "warmup": 1, "progress": False, "options": options}
emulators.train(sys.argv[3], steps=1, **settings)
used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status")
            if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + allowance, used + allowance))
grid = emulators.Grid(path, memory=0)
try:
    whole = emulators.Grid(path, memory=1e12)
    whole.keep(np.arange(whole.n_spec))
except MemoryError:
    print("whole: MemoryError")
emulator = emulators.train(grid, steps=5, **settings)
print("lazily: trained", sorted(emulator.metrics))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address-space limits are those of Linux")
def test_a_grid_larger_than_memory_can_be_trained_on(grid_path: Path, tmp_path: Path) -> None:
    n_spec, n_pix, allowance = 20_000, 15_000, 200_000_000
    _write_large(tmp_path / "large.h5", n_spec, n_pix)
    assert 4 * n_spec * n_pix > 5 * allowance
    answer = subprocess.run(
        [sys.executable, "-c", WITHIN_AN_ALLOWANCE, tmp_path / "large.h5", str(allowance),
         grid_path],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a thread's stack is address space too
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == [
        "whole: MemoryError",
        "lazily: trained ['mae', 'mare', 'maxae', 'mse', 'qae95', 'qmae95']",
    ]
