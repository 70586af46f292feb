"""The page on troubleshooting quotes messages as they are, and no others."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

import emulators
import stellarfit
from emulators.cli import main as emulators_command
from stellarfit.cli import main as stellarfit_command
from stellarfit.quality import MEANINGS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
EXAMPLE = ROOT / "data" / "spectra" / "example.fits"
STAR = {"teff": 5772, "logg": 4.44, "vmic": 1.0, "fe_h": 0.0}
SHORT = {"steps": 2, "network": "mlp", "progress": False}


def text() -> None:
    """Write star.txt, columns without a word on the medium."""
    wavelength = np.arange(5160.0, 5200.0, 0.1)
    np.savetxt("star.txt", np.column_stack([wavelength, np.ones_like(wavelength)]))


def grid(medium: str = "air") -> str:
    """Write mine.h5, a grid of random numbers."""
    rng = np.random.default_rng(0)
    with h5py.File("mine.h5", "w") as file:
        file["wavelength"] = np.linspace(5160.0, 5170.0, 50)
        file["wavelength"].attrs["medium"] = medium
        file["flux"] = rng.uniform(0.5, 1.0, (30, 50))
        file["labels"] = rng.uniform([5000, 4], [6000, 5], (30, 2))
        file["labels"].attrs.update(names=["teff", "logg"], units=["K", "dex"])
        file["split"] = (np.arange(30) % 10 == 0).astype(np.uint8)
    return "mine.h5"


def example(**options: object) -> None:
    stellarfit.fit(EXAMPLE, **options)


def air_or_vacuum() -> None:
    text()
    stellarfit.read("star.txt")


def no_such_file() -> None:
    stellarfit.read("star.fits")


def empty() -> None:
    Path("star.fits").write_bytes(b"")
    stellarfit.read("star.fits")


def cut_short() -> None:
    Path("star.fits").write_bytes(EXAMPLE.read_bytes()[:9000])
    stellarfit.read("star.fits")


def not_a_spectrum() -> None:
    fits.PrimaryHDU(np.zeros((9, 9))).writeto("star.fits")
    stellarfit.read("star.fits")


def resolution_not_said() -> None:
    example()


def resolution_said_twice() -> None:
    example(instrument="harps", resolution=30_000)


def unknown_instrument() -> None:
    example(instrument="harp")


def outside_the_emulator() -> None:
    wavelength = np.arange(6500.0, 6600.0, 0.05)
    stellarfit.fit(wavelength, np.ones_like(wavelength), ivar=np.ones_like(wavelength),
                   medium="air", resolution=20_000)


def too_few_pixels() -> None:
    spectrum = stellarfit.read(EXAMPLE).cut(5160.0, 5161.0)
    stellarfit.fit(spectrum, resolution=30_000)


def unknown_parameter() -> None:
    example(resolution=30_000, free=["teff", "logg", "feh"])


def no_value() -> None:
    example(resolution=30_000, free=["teff", "logg", "fe_h"])


def unknown_emulator() -> None:
    emulators.load("mgb-fkg")


def damaged_emulator() -> None:
    from emulators.storage import shipped

    shutil.copytree(Path(str(shipped())) / "mgb-base", "mine")
    weights = next(Path("mine").glob("weights-*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    emulators.load("mine")


def outside_the_domain() -> None:
    emulator = emulators.load("mgb-fgk")
    emulator({**STAR, "teff": 9000}, emulator.pixels[:5])


def other_wavelengths() -> None:
    emulator = emulators.load("mgb-fgk")
    emulator(STAR, np.array([6500.0, 6501.0]))


def between_pixels() -> None:
    emulator = emulators.train(grid(), **SHORT)
    emulator({"teff": 5500.0, "logg": 4.5}, np.array([5165.05]))


def no_grid() -> None:
    with h5py.File("mine.h5", "w") as file:
        file["flux"] = np.ones((3, 5))
    emulators.Grid("mine.h5")


def grid_without_medium() -> None:
    emulators.Grid(grid(medium=""))


def run_there_already() -> None:
    for _ in range(2):
        emulators.train(grid(), out="runs/mine", **SHORT)


def other_settings() -> None:
    emulators.train(grid(), out="runs/mine", **SHORT)
    emulators.train("mine.h5", out="runs/mine", resume=True, **{**SHORT, "steps": 3})


def loss_blows_up() -> None:
    emulators.train(grid(), learning_rate=1e30, matrix_rate=1e30, warmup=0,
                    **{**SHORT, "steps": 50})


def unknown_setting() -> None:
    emulators.train(grid(), step=3, progress=False)


def no_survey() -> None:
    command(stellarfit_command, "survey", "status", "survey")


def hole_in_a_survey() -> None:
    text()
    answer = CliRunner().invoke(stellarfit_command, [
        "survey", "run", "star.txt", "--out", "survey", "-R", "20000", "--workers", "1"])
    assert "1 of 1 stars done" in answer.output  # a star that says no medium is a row
    for shard in Path("survey/shards").glob("*.h5"):
        shard.unlink()
    command(stellarfit_command, "survey", "merge", "survey", "-o", "catalogue.fits")


def unknown_recipe() -> None:
    command(emulators_command, "synthesize", "mgb-fkg", "-o", "mine.h5")


def command(program: Callable[..., object], *words: str) -> None:
    """Run a command that must fail, and raise what it says."""
    answer = CliRunner().invoke(program, words)
    assert answer.exit_code != 0
    raise ValueError(answer.output.splitlines()[-1].removeprefix("Error: "))


MAKERS = [
    air_or_vacuum, no_such_file, empty, cut_short, not_a_spectrum, resolution_not_said,
    resolution_said_twice, unknown_instrument, outside_the_emulator, too_few_pixels,
    unknown_parameter, no_value, unknown_emulator, damaged_emulator, outside_the_domain,
    other_wavelengths, between_pixels, no_grid, grid_without_medium, run_there_already,
    other_settings, loss_blows_up, unknown_setting, no_survey, hole_in_a_survey, unknown_recipe,
]


def squeezed(words: str) -> str:
    """Return a message without its line breaks, nor the folder of the example."""
    return " ".join(words.replace(str(EXAMPLE), "star.fits").split())


def quoted() -> list[str]:
    """Return the messages that the page quotes, … standing for what is left out."""
    return [squeezed(block) for block in re.findall(r"```text\n(.*?)```", PAGE.read_text(),
                                                    flags=re.DOTALL)]


@pytest.mark.parametrize("maker", MAKERS, ids=lambda m: m.__name__)
def test_a_message_is_quoted_as_it_is(
    maker: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError, FloatingPointError)) as caught:
        maker()
    said = squeezed(str(caught.value))
    assert any(re.fullmatch(".+".join(map(re.escape, words.split("…"))), said)
               for words in quoted()), said


def test_nothing_else_is_quoted() -> None:
    assert len(quoted()) == len(set(quoted())) == len(MAKERS)


def test_the_flags_of_the_page_have_their_names() -> None:
    names = set(re.findall(r"`([A-Z_]{5,})`", PAGE.read_text()))
    assert names
    assert names <= {flag.name for flag in MEANINGS} | {"OMP_NUM_THREADS"}
