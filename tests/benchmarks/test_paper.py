"""The paper's experiment judges by spectra that took no part in anything."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.any_wavelength import interpolated
from benchmarks.lora_plateau import RESULTS as PLATEAU
from benchmarks.paper import FAMILIES, RESULTS, SIZES, TEST, chosen, recorded, settings
from benchmarks.paper_figures import DOCS, MARK, tables
from emulators import Grid


@pytest.mark.parametrize("n", SIZES)
def test_the_spectra_that_judge_are_neither_learnt_from_nor_chosen_by(
    grids_folder: Path, n: int
) -> None:
    path = grids_folder / "mgb-target.h5"
    as_it_comes, grid = Grid(path), chosen(Grid(path), n, 0)
    assert set(np.flatnonzero(grid.split == TEST)) == set(as_it_comes.rows("validation"))
    learnt, held = grid.rows("train"), grid.rows("validation")
    assert len(learnt) + len(held) == n
    assert len(held) == max(10, n // 10)
    assert set(learnt) | set(held) <= set(as_it_comes.rows("train"))


def test_more_spectra_include_the_fewer(grids_folder: Path) -> None:
    grids = [chosen(Grid(grids_folder / "mgb-target.h5"), n, 0) for n in SIZES]
    taken = [set(g.rows("train")) | set(g.rows("validation")) for g in grids]
    assert all(few <= many for few, many in pairwise(taken))


def test_every_run_of_the_experiment_is_recorded_whole() -> None:
    for family, sizes in FAMILIES.items():
        for n in sizes:
            result = json.loads((RESULTS / f"{family}-{n}-0.json").read_text())
            assert (result["family"], result["n"]) == (family, n)
            assert set(result["metrics"]) == {"mse", "mae", "maxae", "mare", "qae95", "qmae95"}
            assert all(np.isfinite(v) and v > 0 for v in result["metrics"].values())
            assert result["settings"] == recorded(settings(family, n, "mgb-base"))
            assert result["seconds"] > 0
            assert result["version"]


def test_all_adapted_runs_start_from_one_base() -> None:
    runs = [json.loads(p.read_text()) for p in sorted(RESULTS.glob("*.json"))]
    bases = {r["base"] for r in runs if r["family"] in ("full", "lora")}
    bases |= {json.loads(p.read_text())["base"] for p in PLATEAU.glob("*.json")}
    assert len(bases) == 1


def test_the_page_shows_what_the_results_say() -> None:
    assert (DOCS / "experiments.md").read_text().split(MARK)[1] == tables()


def test_interpolation_of_what_the_pixels_resolve_is_exact() -> None:
    x = np.arange(400) / 400
    smooth = 1.0 - 0.4 * np.exp(-(((x - 0.5) / 0.03) ** 2))[None]
    error = np.abs(interpolated(smooth.astype(np.float32)) - smooth[:, 1::2])
    assert error[:, 8:-8].max() < 1e-5
