"""The shape of the house: public names, the direction of imports, what must not appear."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import emulators
import stellarfit

ROOT = Path(emulators.__file__).parents[1]
SOURCES = sorted(p for package in ("emulators", "stellarfit")
                 for p in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_public_names_are_these_and_can_be_had():
    assert emulators.__all__ == [
        "Domain", "DomainWarning", "Emulator", "Grid", "GridRecipe", "LabelSet", "Lora", "Recipe",
        "available", "card", "distill", "evaluate", "load", "measure_errors", "plot_grid",
        "plot_sensitivity", "plot_training", "synthesize", "train",
    ]
    assert stellarfit.__all__ == [
        "Calibration", "FitResult", "Flag", "Instrument", "Posterior", "Spectrum", "calibrate",
        "compare", "fit", "fit_batch", "fit_many", "from_specutils", "load_calibration",
        "load_posterior", "load_result", "plot_corner", "plot_fit", "plot_lsf", "plot_residuals",
        "read", "read_all", "sample", "sample_batch", "write_report",
    ]
    assert stellarfit.survey.__all__ == [
        "IncompleteError", "OtherSurveyError", "Progress", "Status", "merge", "result", "run",
        "status",
    ]
    assert stellarfit.priors.Gaussian(1.0, 0.1).mean == 1.0
    for module in (emulators, stellarfit, stellarfit.survey):
        assert all(getattr(module, name).__doc__ for name in module.__all__)
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            module.nonsense  # noqa: B018


def test_arrows_point_one_way():
    for path in SOURCES:
        if "emulators" in path.relative_to(ROOT).parts:
            assert "stellarfit" not in imported(path), path


@pytest.mark.parametrize(("line", "absent"), [
    ("import stellarfit, stellarfit.cli", {"torch", "numpy", "scipy", "astropy", "h5py"}),
    ("from stellarfit import fit; from emulators import load", {
        "scipy.stats", "scipy.interpolate", "astropy", "h5py", "emcee", "matplotlib",
        "torch._dynamo"}),
])
def test_what_is_heavy_is_imported_where_it_is_used(line, absent):
    run = subprocess.run(
        [sys.executable, "-c", f"{line}; import sys; print(*sys.modules)"],
        check=True, capture_output=True, text=True, cwd=ROOT)
    assert not absent & set(run.stdout.split())


def test_nothing_is_pickled_and_nothing_is_downloaded():
    for path in SOURCES:
        forbidden = {"pickle", "joblib", "dill", "shelve", "urllib", "requests"}
        assert not imported(path) & forbidden, path


def test_what_ships_is_small_and_named():
    assert "mgb-fgk" in emulators.available()
    from emulators.storage import shipped

    for path in shipped().rglob("*"):
        assert path.suffix in ("", ".json", ".safetensors")
        assert path.stat().st_size <= 10e6
