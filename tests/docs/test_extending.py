"""The pieces of the page on adding one's own are what it says they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.io import fits

import emulators
import stellarfit
from emulators import networks
from stellarfit.instrument import Instrument, tabulated
from stellarfit.readers import fits as reading
from stellarfit.readers.content import Content

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def known(start: str, **names: Any) -> dict[str, Any]:
    """Run the block of the page that begins so, and return what it defines."""
    found = next(b for b in BLOCKS if b.startswith(start))
    names["__name__"] = "mine"
    exec(compile(found, str(PAGE), "exec", dont_inherit=True), names)
    return names


def test_the_architecture_trains_saves_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(networks.NETWORKS, "shallow",
                        known('"""One hidden layer')["Shallow"])
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["wavelength"] = np.linspace(5160.0, 5170.0, 50)
        file["wavelength"].attrs["medium"] = "air"
        file["flux"] = rng.uniform(0.5, 1.0, (30, 50))
        file["labels"] = rng.uniform([5000, 4], [6000, 5], (30, 2))
        file["labels"].attrs["names"] = ["teff", "logg"]
        file["split"] = (np.arange(30) % 10 == 0).astype(np.uint8)
    emulator = emulators.train(tmp_path / "mine.h5", network="shallow", options={"hidden": 7},
                               steps=3, progress=False)
    again = emulators.load(emulator.save(tmp_path / "mine"))
    assert again.network.config == {"hidden": 7}
    tuned = emulators.train(tmp_path / "mine.h5", init=again, steps=2, progress=False)
    assert tuned.network.matrices == ["middle.weight"]


def test_the_reader_reads_its_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = known("def mine", Any=Any, Content=Content, np=np)["mine"]
    monkeypatch.setattr(reading, "SURVEYS", (*reading.SURVEYS, mine))
    first = fits.PrimaryHDU(np.ones(40))
    first.header.update(INSTRUME="MINE", LNSTART=8.55, LNSTEP=1e-5)
    fits.HDUList([first, fits.ImageHDU(np.full(40, 0.01))]).writeto(tmp_path / "star.fits")
    spectrum = stellarfit.read(tmp_path / "star.fits")
    assert spectrum.medium == "vacuum"
    assert spectrum.frame == "barycentric"
    np.testing.assert_allclose(spectrum.wavelength, np.exp(8.55 + 1e-5 * np.arange(40)))
    np.testing.assert_allclose(spectrum.ivar, 1e4)
    assert mine(fits.HDUList([fits.PrimaryHDU()])) is None


def test_the_lines_of_instruments_are_instruments() -> None:
    lines = re.findall(r"`((?:Instrument|tabulated)\(.*?\))`", PAGE.read_text(), flags=re.DOTALL)
    made = [eval(" ".join(line.split()), {"Instrument": Instrument, "tabulated": tabulated})
            for line in lines]
    assert len(made) == 2
    assert all(re.search(r"(19|20)\d\d, ", i.reference) for i in made)
