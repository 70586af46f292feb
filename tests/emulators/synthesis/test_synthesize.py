"""Grids are made once, the same by any hands, and survive being killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from emulators import Grid, synthesize
from emulators.files import sha256
from emulators.synthesis import making
from emulators.synthesis.recipe import GridRecipe
from emulators.synthesis.synthesize import lines_of

pytest.importorskip("pysme", reason="needs the extra [synthesis]")


@pytest.fixture
def recipe(small: dict[str, Any]) -> GridRecipe:
    return GridRecipe.from_dict(small)


def test_a_grid_holds_spectra_labels_continuum_and_structure(
    recipe: GridRecipe, tmp_path: Path
) -> None:
    grid = synthesize(recipe, tmp_path / "grid.h5", progress=False)
    assert grid.n_spec == 6
    assert grid.medium == "air"
    assert grid.split.tolist() == recipe.split(np.arange(6)).tolist()
    flux = grid.flux(np.arange(6))
    assert flux.min() > 0.0
    assert flux.max() <= 1.0 + 1e-4
    assert flux.min(axis=1).max() < 0.5  # Mg b and iron in all of them
    assert grid.domain.contains(grid.labels).all()
    with h5py.File(grid.path) as file:
        depth = file["structure/log_optical_depth"][:]
        temperature = file["structure/temperature"][:]
        # up to ripples of the fits
        assert (np.diff(temperature[:, depth > -3], axis=1) > -5.0).all()
        teff = grid.labels[:, grid.label_set.index("teff")]
        surface = [np.interp(np.log10(2 / 3), depth, t) for t in temperature]
        np.testing.assert_allclose(surface, teff, rtol=0.06)
        assert (np.diff(file["structure/pressure"][:], axis=1) > 0).all()
        assert (np.argsort(file["continuum"][:].mean(axis=1)) == np.argsort(teff)).all()
        assert len(file["failed/sample"]) == 0


@pytest.mark.filterwarnings("ignore")  # dask's own, of sockets and loops
def test_any_number_of_workers_and_size_of_shard_gives_the_same_bytes(
    recipe: GridRecipe, tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    one = synthesize(recipe, tmp_path / "one.h5", shard=4, progress=False)
    two = synthesize(recipe, tmp_path / "two.h5", shard=1, workers=2, progress=False)
    assert sha256(one.path) == sha256(two.path)


def test_a_grid_made_longer_is_the_long_grid(recipe: GridRecipe, tmp_path: Path) -> None:
    synthesize(recipe, tmp_path / "grown.h5", number=3, progress=False)
    grown = synthesize(recipe, tmp_path / "grown.h5", append=True, shard=2, progress=False)
    whole = synthesize(recipe, tmp_path / "whole.h5", progress=False)
    assert sha256(grown.path) == sha256(whole.path)


def test_what_is_there_is_not_overwritten_nor_extended_by_another_recipe(
    recipe: GridRecipe, small: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "grid.h5"
    synthesize(recipe, out, number=1, progress=False)
    with pytest.raises(FileExistsError, match="exists: give --append"):
        synthesize(recipe, out)
    small["labels"]["vmic"] = 2.0
    other = GridRecipe.from_dict(small)
    with pytest.raises(ValueError, match="made from another recipe"):
        synthesize(other, out, append=True)


def test_shards_left_by_other_runs_are_neither_counted_twice_nor_taken_for_more(
    recipe: GridRecipe, tmp_path: Path
) -> None:
    out, parts, kept = tmp_path / "grid.h5", tmp_path / "grid.h5.parts", tmp_path / "kept"

    def leave(path: Path) -> None:
        shutil.copytree(path, kept, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emulators.synthesis.synthesize.shutil.rmtree", leave)
        synthesize(recipe, out, shard=4, progress=False)  # 0-4 and 4-6
        assert parts.exists()  # killed before the folder went
    shutil.copytree(kept, parts, dirs_exist_ok=True)
    out.unlink()
    few = synthesize(recipe, out, number=5, progress=False)  # 4-6 reaches too far
    assert few.n_spec == 5
    shutil.copytree(kept, parts)
    assert synthesize(recipe, out, append=True, progress=False).n_spec == 6
    whole = synthesize(recipe, tmp_path / "whole.h5", progress=False)
    assert sha256(out) == sha256(whole.path)


def test_failures_are_kept_with_their_labels_and_reason(
    recipe: GridRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # What is hot counts as failed.
    teff = recipe.samples(np.arange(6))["teff"]
    real = making._check

    def picky(flux: Any, wavelength: Any, seen: list[int] = []) -> None:  # noqa: B006
        seen.append(1)
        if teff[len(seen) - 1] > 5500:
            raise FloatingPointError("too hot at 5170 Å")
        real(flux, wavelength)

    monkeypatch.setattr(making, "_check", picky)
    grid = synthesize(recipe, tmp_path / "grid.h5", progress=False)
    with h5py.File(grid.path) as file:
        bad = file["failed/sample"][:]
        assert bad.tolist() == np.flatnonzero(teff > 5500).tolist()
        np.testing.assert_allclose(file["failed/labels"][:, 0], teff[bad])
        assert file["failed/reason"].asstr()[0] == "FloatingPointError: too hot at 5170 Å"
        assert file["sample"][:].tolist() == np.flatnonzero(teff <= 5500).tolist()
    assert f"{len(bad)} of 6 spectra failed" in caplog.text


def test_a_flux_that_no_star_has_is_a_failure() -> None:
    at = np.linspace(5165.0, 5175.0, 5)
    with pytest.raises(FloatingPointError, match=r"1.2000 at 5170.00 Å"):
        making._check(np.array([1.0, 0.5, 1.2, 0.9, 1.0]), at)
    with pytest.raises(FloatingPointError):
        making._check(np.array([1.0, np.nan, 0.9, 1.0, 1.0]), at)


SCRIPT = """
import sys, json
from emulators.synthesis.recipe import GridRecipe
from emulators import synthesize
if __name__ == "__main__":
    recipe = GridRecipe.from_dict(json.load(open(sys.argv[1])))
    synthesize(recipe, sys.argv[2], number=14, workers=int(sys.argv[3]), shard=1, progress=False)
"""


def test_killed_worker_and_killed_client_give_the_same_file(
    small: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    psutil = pytest.importorskip("psutil")
    import json

    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "recipe.json").write_text(json.dumps(small))
    out = tmp_path / "grid.h5"
    call = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "recipe.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    client = subprocess.Popen([*call, str(out), "2"], env=environment, start_new_session=True)
    parts = tmp_path / "grid.h5.parts"

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 90
        while len(list(parts.glob("*.npz"))) < count and client.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    wait_for(2)
    workers = [p for p in psutil.Process(client.pid).children(recursive=True)
               if "spawn_main" in " ".join(p.cmdline())]
    workers[0].kill()
    wait_for(5)
    assert client.poll() is None, "it was done before it could be killed"
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    assert not out.exists()
    done = len(list(parts.glob("*.npz")))
    assert 5 <= done < 14
    subprocess.run([*call, str(out), "1"], env=environment, check=True)
    assert not parts.exists()
    whole = tmp_path / "whole.h5"
    subprocess.run([*call, str(whole), "1"], env=environment, check=True)
    assert sha256(out) == sha256(whole)
    assert Grid(out).n_spec == 14


def test_a_recipe_that_came_to_nothing_can_be_mended(
    small: dict[str, Any], tmp_path: Path
) -> None:
    wrong = {**small, "lines": {**small["lines"], "without": ["MgO"]}}
    with pytest.raises(ValueError, match=r"lines\.without names MgO"):
        synthesize(GridRecipe.from_dict(wrong), tmp_path / "grid.h5", progress=False)
    grid = synthesize(GridRecipe.from_dict(small), tmp_path / "grid.h5", number=1, progress=False)
    assert grid.n_spec == 1


def test_a_grid_is_not_written_into_a_folder_that_is_not_there(
    recipe: GridRecipe, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        synthesize(recipe, tmp_path / "nowhere" / "grid.h5", progress=False)


def test_a_window_that_the_lines_do_not_fill_is_warned_of(
    small: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    wavelength = {**small["wavelength"], "windows": [[9180.0, 9230.0]]}
    lines_of(GridRecipe.from_dict({**small, "wavelength": wavelength}))
    assert "to 9200 Å only, not all of wavelength.windows" in caplog.text
