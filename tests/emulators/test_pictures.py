"""Pictures of trainings and of what labels do: what is drawn, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from emulators import Emulator, plot_sensitivity, plot_training
from emulators.sensitivity_plot import sensitivity
from emulators.training_plot import read_log

pytest.importorskip("matplotlib")

LOG = "step,rate,loss,mse,mae\n10,1e-3,0.5,4e-4,1e-2\n20,5e-4,0.2,1e-4,5e-3\n30,0,0.1,2e-4,6e-3\n"
STAR = {"teff": 5500.0, "logg": 4.0, "fe_h": -0.5, "mg_h": -0.3}


def run_of(folder: Path, log: str = LOG) -> Path:
    folder.mkdir(parents=True)
    (folder / "log.csv").write_text(log)
    return folder


def test_trainings_are_drawn_with_the_state_that_was_kept(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / n / "run") for n in ("base", "lora")]
    figure = plot_training(runs)
    loss, mae, *_ = figure.axes
    assert [line.get_label() for line in loss.lines] == ["base/run", "lora/run"]
    assert len({line.get_linestyle() for line in loss.lines}) == 2
    marked = [line.get_xydata().tolist() for line in mae.lines if line.get_marker() == "o"]
    assert marked == [[[20.0, 5e-3]]] * 2  # of the lowest MSE
    written = plot_training(runs[0] / "log.csv", tmp_path / "one.png")
    assert written.read_bytes().startswith(b"\x89PNG")


def test_a_log_without_validation_has_its_loss_alone(tmp_path: Path) -> None:
    figure = plot_training(run_of(tmp_path / "run", "step,rate,loss\n10,1e-3,0.5\n"))
    assert [bool(axes.lines) for axes in figure.axes] == [True, False, False, True]


@pytest.mark.parametrize(("text", "message"), [
    ("", "it has the columns of nothing"), ("a,b\n1,2\n", "it has the columns a, b"),
    ("step,loss\n1,low\n", "could not convert"), ("step,loss\n1\n", "is no log of a run"),
])
def test_what_is_no_log_is_refused_in_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_log(run_of(tmp_path / "run", text))
    with pytest.raises(FileNotFoundError, match="expected the folder of a run"):
        read_log(tmp_path)
    with pytest.raises(ValueError, match="no run to draw"):
        plot_training([])


def test_sensitivity_is_the_derivative_of_the_flux(emulator: Emulator) -> None:
    emulator.to(torch.float64)
    flux, changes = sensitivity(emulator, STAR)
    assert changes.shape == (4, len(emulator.pixels))
    step = 1e-4
    moved = emulator({**STAR, "mg_h": STAR["mg_h"] + step}, emulator.pixels)
    np.testing.assert_allclose(changes[3], (moved.detach().numpy() - flux) / step, atol=1e-4)


def test_sensitivity_is_drawn_as_an_instrument_sees_it(emulator: Emulator, tmp_path: Path) -> None:
    figure = plot_sensitivity(emulator, STAR, names=["mg_h", "teff"], resolution=20_000)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "flux / continuum", "[Mg/H]\n+0.1 dex", "Teff\n+100 K"]
    smooth, sharp = (sensitivity(emulator, STAR, resolution=r)[0] for r in (5_000, None))
    assert np.ptp(smooth) < np.ptp(sharp)
    assert plot_sensitivity(emulator, STAR, tmp_path / "s.png").stat().st_size > 10_000


def test_sensitivity_counts_the_resolution_that_the_emulator_has(emulator: Emulator) -> None:
    """R = 20000 to 10000 takes a Gaussian of 1/R^2 = 3/20000^2."""
    expected = sensitivity(emulator, STAR, resolution=20_000 / np.sqrt(3.0))[0]
    emulator.provenance = {"trained_on": {"resolution": 20_000}}
    np.testing.assert_allclose(sensitivity(emulator, STAR, resolution=10_000)[0], expected)
    assert np.array_equal(*(sensitivity(emulator, STAR, resolution=r)[0] for r in (20_000, None)))
    with pytest.raises(ValueError, match="gives spectra of R = 20000: ask for no more"):
        plot_sensitivity(emulator, STAR, resolution=30_000)


def test_a_resolution_needs_pixels_even_in_ln_wavelength(emulator: Emulator) -> None:
    emulator.pixels = np.linspace(*emulator.wavelength_range, 200)
    with pytest.raises(ValueError, match=r"are not uniform in .*: leave resolution out"):
        sensitivity(emulator, STAR, resolution=10_000)


def test_what_cannot_be_asked_is_refused(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="above 0"):
        plot_sensitivity(emulator, STAR, resolution=0)
    with pytest.raises(ValueError, match="outside the domain"):
        plot_sensitivity(emulator, {**STAR, "teff": 50_000.0})
    with pytest.raises(ValueError, match="nonsense"):
        plot_sensitivity(emulator, STAR, names=["nonsense"])


def test_without_matplotlib_a_sentence_says_what_to_install(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (lambda: plot_training(run), lambda: plot_sensitivity(emulator, STAR)):
        with pytest.raises(ImportError, match=r"pip install 'stellarfit\[plot\]'"):
            draw()
