"""What a teacher tells its student: spectra of labels drawn evenly from its domain, as a grid.

Spectra are made in blocks, each a function of the seed and its number alone, and each kept in a
file of its own until all are there: what was interrupted goes on.  They are the teacher's at its
own training pixels, or seen at a lower resolution R, at every so many of its pixels as sample that.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from emulators.drawing import uniform
from emulators.emulator import Emulator
from emulators.files import atomic_write, write_json
from emulators.grid import Grid

Array = NDArray[np.float64]
logger = logging.getLogger(__name__)
#: spectra of a block, and at once through the teacher
BLOCK, AT_ONCE = 256, 16
#: one block in so many is for validation
VALIDATED = 20
#: flux in 16 bits, from 0 to 1.2
SCALE = 1.2 / 65535
#: sigma of the smoothing in steps of the pixels, at least, and how many sigma it reaches
LEAST_SIGMA, REACH = 1.2, 5.0
SIGMA_PER_FWHM = 1.0 / math.sqrt(8.0 * math.log(2.0))


@dataclass(frozen=True)
class View:
    """How a student sees its teacher's spectra.

    Parameters
    ----------
    teacher : Emulator
        Its training pixels uniform in ln(wavelength).
    low, high : float
        Angstrom, in its medium: as far as the pixels should reach.
    resolution : float or None
        R = wavelength / FWHM of the Gaussian they are smoothed with; None for none.

    Raises
    ------
    ValueError
        For a range that the teacher does not cover or that holds no two pixels, a resolution
        that its pixels do not sample or that it has not got itself, and pixels that are not
        uniform.
    """

    teacher: Emulator
    low: float
    high: float
    resolution: float | None

    def __post_init__(self) -> None:
        teacher, (first, last) = self.teacher, self.teacher.wavelength_range
        refuse_uneven(teacher, "it cannot teach")
        tolerance = 1e-6 * first
        if not first - tolerance <= self.low < self.high <= last + tolerance:
            raise ValueError(f"wavelengths {self.low:g}-{self.high:g} Å were asked for, but "
                             f"'{teacher.name}' covers {first:.1f}-{last:.1f} Å")
        if self.resolution is not None:
            self._check_resolution(self.resolution)
        if len(self.pixels) < 2:
            far = ("" if self.resolution is None
                   else f", far enough from its ends for R = {self.resolution:g}")
            raise ValueError(f"fewer than two pixels of '{teacher.name}' lie between {self.low:g} "
                             f"and {self.high:g} Å{far}: ask for more")

    def _check_resolution(self, resolution: float) -> None:
        teacher = self.teacher
        if not self._sigma >= LEAST_SIGMA:
            sharpest = SIGMA_PER_FWHM / (LEAST_SIGMA * teacher.log_step)
            raise ValueError(f"resolution is {resolution:g}; the pixels of '{teacher.name}' "
                             f"sample up to {sharpest:.0f}; leave it out for spectra as they are")
        if teacher.resolution is not None:
            raise ValueError(f"'{teacher.name}' gives spectra of R = {teacher.resolution:g}: "
                             "leave resolution out")

    @property
    def _sigma(self) -> float:
        """Of the smoothing, in training pixels."""
        return SIGMA_PER_FWHM / (self.resolution or np.inf) / self.teacher.log_step

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Of the student's pixels among its teacher's."""
        pixels, slack = self.teacher.pixels, 1e-9
        wanted = np.flatnonzero((pixels >= self.low * (1 - slack))
                                & (pixels <= self.high * (1 + slack)))
        if self.resolution is None:
            return wanted
        margin = math.ceil(REACH * self._sigma)
        within = wanted[(wanted >= margin) & (wanted < len(pixels) - margin)]
        return within[::max(1, int(self._sigma / LEAST_SIGMA))]

    @property
    def pixels(self) -> Array:
        """The student's training pixels (n_pix,), Angstrom."""
        return self.teacher.pixels[self._places]

    def __call__(self, flux: Tensor) -> Tensor:
        """Return spectra (n, n_pix) of the teacher's (n, n_pixel) at all its pixels."""
        places = torch.as_tensor(self._places, device=flux.device)
        if self.resolution is None:
            return flux[:, places]
        reach = math.ceil(REACH * self._sigma)
        steps = torch.arange(-reach, reach + 1, dtype=flux.dtype, device=flux.device)
        kernel = torch.exp(-0.5 * (steps / self._sigma) ** 2)
        smooth = F.conv1d(flux[:, None], (kernel / kernel.sum())[None, None])[:, 0]
        return smooth[:, places - reach]

    def spectra(self, labels: Array) -> Tensor:
        """Return the teacher's spectra (n, n_pix) of labels (n, n_label), float32."""
        teacher = self.teacher
        wavelength = torch.as_tensor(teacher.pixels, device=teacher.device)
        with torch.no_grad():
            parts = [self(teacher.flux(torch.as_tensor(some, device=teacher.device), wavelength)
                          .float()).cpu()
                     for some in np.split(labels, range(AT_ONCE, len(labels), AT_ONCE))]
        return torch.cat(parts)

    def describe(self) -> dict[str, Any]:
        """Return who teaches what, JSON-able."""
        return {"teacher": self.teacher.name, "teacher_sha256": self.teacher.sha256,
                "wavelength": [self.low, self.high], "resolution": self.resolution}


def write_lessons(
    view: View, folder: Path, *, spectra: int, seed: int, resume: bool, progress: bool
) -> Grid:
    """Return the grid ``folder/lessons.h5`` of so many training spectra, made where it is missing.

    Their number is rounded up to whole blocks; those for validation come on top.

    Raises
    ------
    ValueError
        When the folder holds other lessons, or any and `resume` is not set.
    """
    blocks = -(-spectra // BLOCK)
    checks = max(1, blocks // VALIDATED)
    made_by = {**view.describe(), "seed": seed, "spectra": blocks * BLOCK}
    _claim(folder, made_by, resume)
    path = folder / "lessons.h5"
    if path.exists():
        return Grid(path)
    files = [folder / "blocks" / f"{k:05}.h5" for k in range(blocks + checks)]
    clipped = 0
    todo = [k for k, f in enumerate(files) if not f.exists()]
    for k in tqdm(todo, initial=len(files) - len(todo), total=len(files), desc="lessons",
                  unit="block", disable=None if progress else True):
        labels = uniform(view.teacher.domain, view.teacher.labels, BLOCK,
                         np.random.default_rng([seed, k]))
        steps = np.round(view.spectra(labels).numpy() / SCALE)
        clipped += int(np.count_nonzero((steps < 0) | (steps > 65535)))
        with atomic_write(files[k]) as temporary, h5py.File(temporary, "w") as file:
            file["labels"] = labels.astype(np.float32)
            file["flux"] = steps.clip(0, 65535).astype(np.uint16)
    if clipped:
        logger.warning("%d fluxes of the lessons lie outside 0 to %g and are kept as its ends",
                       clipped, 65535 * SCALE)
    _join(path, files, checks, view, made_by)
    for file in files:
        file.unlink()
    files[0].parent.rmdir()
    return Grid(path)


def refuse_uneven(emulator: Emulator, therefore: str) -> None:
    """Refuse training pixels that are not uniform in ln(wavelength), saying what follows."""
    if np.ptp(np.diff(np.log(emulator.pixels))) > 1e-3 * emulator.log_step:
        raise ValueError(f"the training pixels of '{emulator.name}' are not uniform in "
                         f"ln(wavelength): {therefore}")


def _claim(folder: Path, made_by: dict[str, Any], resume: bool) -> None:
    """Say whose lessons a folder is to hold, or make sure that it does."""
    note = folder / "lessons.json"
    if not note.exists():
        write_json(note, made_by)
        return
    if not resume:
        raise ValueError(f"'{folder}' holds a distillation already; go on with it (resume), or "
                         "choose another folder")
    known = json.loads(note.read_text())
    if other := [k for k, v in made_by.items() if known.get(k) != v]:
        raise ValueError(f"'{folder}' holds a distillation with another {', '.join(other)}; "
                         "choose another folder")


def _join(
    path: Path, files: list[Path], checks: int, view: View, made_by: dict[str, Any]
) -> None:
    """Write one grid of the blocks, the last of them for validation."""
    teacher, pixels = view.teacher, view.pixels
    count = len(files) * BLOCK
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as out:
        out.attrs["kind"] = "lessons"
        out.attrs["provenance"] = json.dumps(made_by, sort_keys=True)
        out["wavelength"] = pixels
        out["wavelength"].attrs.update(unit="Angstrom", medium=teacher.medium)
        if (resolution := view.resolution or teacher.resolution) is not None:
            out["wavelength"].attrs["resolution"] = resolution
        labels = out.create_dataset("labels", (count, len(teacher.labels)), "f4")
        labels.attrs.update(names=list(teacher.labels.names), units=list(teacher.labels.units))
        flux = out.create_dataset("flux", (count, len(pixels)), "u2", chunks=(4, len(pixels)))
        flux.attrs.update(scale=SCALE, offset=0.0)
        out["split"] = (np.arange(count) >= count - checks * BLOCK).astype(np.uint8)
        out["domain/A"], out["domain/b"] = teacher.domain.A, teacher.domain.b
        for k, file in enumerate(files):
            with h5py.File(file, "r") as block:
                rows = slice(k * BLOCK, (k + 1) * BLOCK)
                labels[rows], flux[rows] = block["labels"][()], block["flux"][()]
