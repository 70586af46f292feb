"""A recipe says what it makes, and refuses what cannot be made, naming the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulators.labels import Domain
from emulators.synthesis.recipe import GridRecipe


def labels_of(recipe: GridRecipe, number: int) -> np.ndarray:
    samples = recipe.samples(np.arange(number))
    return np.stack([samples[n] for n in recipe.distribution.names], axis=1)


@pytest.mark.parametrize("sampling", ["sobol", "random"])
def test_every_sample_lies_in_the_domain(small: dict[str, Any], sampling: str) -> None:
    small["labels"]["sampling"] = sampling
    recipe = GridRecipe.from_dict(small)
    assert recipe.distribution.domain.contains(labels_of(recipe, 200)).all()


@pytest.mark.parametrize("sampling", ["sobol", "random"])
def test_a_sample_depends_on_seed_and_number_alone(small: dict[str, Any], sampling: str) -> None:
    small["labels"]["sampling"] = sampling
    recipe = GridRecipe.from_dict(small)
    many, one = recipe.samples(np.arange(20)), recipe.samples(np.array([13]))
    assert all(many[n][13] == one[n][0] for n in many)
    small["grid"]["seed"] = 6
    other = GridRecipe.from_dict(small).samples(np.array([13]))
    assert other["teff"][0] != one["teff"][0]


def test_limits_ties_and_hidden_labels_are_what_they_say(small: dict[str, Any]) -> None:
    recipe = GridRecipe.from_dict(small)
    s = recipe.samples(np.arange(300))
    assert (s["logg"] >= np.maximum(1.0, 0.001 * s["teff"] - 3.5) - 1e-12).all()
    assert (s["na_h"] == s["fe_h"]).all()
    offset = s["mg_h"] - s["fe_h"] - s["alpha_fe"]
    assert np.abs(offset).max() <= 0.1 + 1e-12
    assert offset.std() == pytest.approx(0.2 / np.sqrt(12), rel=0.1)
    assert "alpha_fe" not in recipe.distribution.names
    faces: Domain = recipe.distribution.domain
    beyond = labels_of(recipe, 1)
    mg, fe = (recipe.distribution.names.index(n) for n in ("mg_h", "fe_h"))
    for ratio, inside in ((0.49, True), (0.51, False), (-0.09, True), (-0.11, False)):
        beyond[0, mg] = beyond[0, fe] + ratio
        assert faces.contains(beyond)[0] == inside


def test_a_longer_grid_keeps_the_validation_spectra_of_a_shorter_one(
    small: dict[str, Any]
) -> None:
    recipe = GridRecipe.from_dict(small)
    long = recipe.split(np.arange(1000))
    assert (recipe.split(np.arange(100)) == long[:100]).all()
    assert long.mean() == pytest.approx(0.3, abs=0.002)


@pytest.mark.parametrize(("table", "key", "value", "said"), [
    ("grid", "numbr", 5, r"\[grid\].*'numbr'.*did you mean number"),
    ("grid", "number", 0, "grid.number must be a whole number of at least 1, got 0"),
    ("wavelength", "medium", "water", 'wavelength.medium must be "air" or "vacuum"'),
    ("wavelength", "windows", [[5300, 5200]], "wavelength.windows must be pairs of rising"),
    ("wavelength", "windows", [[5200, 5300], [5250, 5400]], "windows must be in order and apart"),
    ("atmosphere", "m_h", "iron_h", "atmosphere.m_h.*'iron_h'"),
    ("lines", "isotopes", "solar", "lines.isotopes must be 'terrestrial' or 'undivided'"),
    ("engine", "name", "korg", "engine.name must be 'pysme', got 'korg'"),
    ("labels", "solar_scale", "me2026", "labels.solar_scale is 'me2026'; valid: asplund2009"),
    ("labels", "sampling", "halton", "labels.sampling is 'halton'; valid: sobol, random"),
    ("labels", "tef", 5000.0, "'tef'.*did you mean teff"),
    ("labels", "teff", {"uniform": [6000, 5000]}, "labels.teff.uniform must rise"),
    ("labels", "teff", {"unifrom": [5000, 6000]}, "labels.teff.*'unifrom'.*uniform"),
    ("labels", "teff", {"at_least": 4000}, "labels.teff needs 'uniform' or 'on'"),
    ("labels", "logg", {"uniform": [1.0, 2.0], "at_least": {"teff": 0.001, "constant": -3.5}},
     r"labels.logg is impossible where teff = 6500: its lower limit is 3, its upper limit 2"),
    ("labels", "logg", {"uniform": [3.0, 4.0], "at_most": 2.0},
     "labels.logg is impossible: its lower limit is 3, its upper limit 2"),
    ("labels", "logg", {"on": "teff", "uniform": [3.0, 4.0], "at_most": {"teff": 1.0}},
     r"labels.logg is impossible where teff = [\d.]+: its lower limit is \d+, its upper limit \d+"),
    ("labels", "logg", {"on": "gravity"}, "labels.logg.*'gravity'"),
    ("labels", "fe_h", {"on": "na_h"}, "depends on itself, through"),
    ("labels", "unobtainium_h", 0.0, "'unobtainium_h'"),
])
def test_a_recipe_that_cannot_be_is_an_error_that_names_the_key(
    small: dict[str, Any], table: str, key: str, value: Any, said: str
) -> None:
    small.setdefault(table, {})[key] = value
    with pytest.raises(ValueError, match=said):
        GridRecipe.from_dict(small)


def test_an_element_described_twice_or_unknown_is_an_error(small: dict[str, Any]) -> None:
    small["elements"].insert(1, {"of": "Sc", "on": "fe_h"})
    with pytest.raises(ValueError, match=r"elements\[2\].of names Sc, which has been described"):
        GridRecipe.from_dict(small)
    small["elements"][1]["of"] = ["U-Ga"]
    with pytest.raises(ValueError, match=r"elements\[2\].of: 'U-Ga' runs backwards"):
        GridRecipe.from_dict(small)
    small["elements"][1]["of"] = ["Xx"]
    with pytest.raises(ValueError, match=r"elements\[2\].of: no solar abundance of 'Xx'"):
        GridRecipe.from_dict(small)


def test_a_missing_recipe_says_which_ship(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"those that ship: .*mgb-fgk\.toml"):
        GridRecipe.read(tmp_path / "absent.toml")


@pytest.mark.parametrize("name", ["mgb-pretrain", "mgb-target", "mgb-fgk"])
def test_the_reference_grids_are_recipes(name: str, grids_folder: Path) -> None:
    from emulators import Grid

    recipe = GridRecipe.read(name)
    with Grid(grids_folder / f"{name}.h5") as grid:
        assert recipe.distribution.names == grid.label_set.names
        assert recipe.distribution.units == grid.label_set.units
        np.testing.assert_allclose(recipe.wavelength, grid.wavelength, rtol=1e-12)
        mine, its = (np.column_stack([d.A, d.b]) for d in (recipe.distribution.domain,
                                                           grid.domain))
        order = [np.lexsort(faces.round(6).T) for faces in (mine, its)]
        np.testing.assert_allclose(mine[order[0]], its[order[1]], atol=1e-9)
