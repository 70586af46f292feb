"""The tutorial on fine-tuning does what it says, in a few steps instead of a thousand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import emulators

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "fine-tuning.md"
FEWER = {r"steps=1000": "steps=3", r"validate_every=\d+": "validate_every=3"}


def blocks() -> list[tuple[str, str]]:
    """Return the language and the text of the page's code, in order."""
    return re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def spectra() -> dict[str, np.ndarray]:
    """Return what the reader brings: a hundred spectra, their labels and wavelengths."""
    emulator, rng = emulators.load("mgb-fgk"), np.random.default_rng(0)
    names = ["teff", "logg", "vmic", "fe_h", "mg_fe"]
    labels = rng.uniform([4500, 3.5, 0.8, -0.8, -0.2], [6300, 4.8, 1.8, 0.2, 0.3], (100, 5))
    flux = emulator({n: torch.tensor(v) for n, v in zip(names, labels.T, strict=True)},
                    emulator.pixels).numpy()
    labels[:, 4] += labels[:, 3]  # mg_h
    return {"wavelength": emulator.pixels, "flux": flux, "labels": labels}


def run(command: str) -> None:
    """Run a command of the page."""
    words = shlex.split(command)
    assert words[0] in ("emulators", "stellarfit")
    answer = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True,
                            check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "data" / "spectra" / "example.fits", "star.fits")
    known: dict[str, object] = {"emulators": emulators, **spectra()}
    ran = []
    for language, text in blocks():
        for pattern, fewer in FEWER.items():
            text = re.sub(pattern, fewer, text)
        if language == "python":
            exec(text, known)
            if Path("few.h5").exists() and not Path("test.h5").exists():
                shutil.copy("few.h5", "test.h5")
                with h5py.File("test.h5", "r+") as file:
                    del file["split"]
        else:
            for command in text.replace("\\\n", " ").strip().splitlines():
                run(command)
                ran.append(command.split()[1])
    assert {"train", "evaluate", "fit"} <= set(ran)
    assert emulators.load("my-emulator").errors is not None
    assert (tmp_path / "runs" / "few-lora" / "adapter" / "adapter.json").exists()
