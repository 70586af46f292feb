"""A foundation model teaches a small, fast student, for one survey's pixels.

The student (`emulators.networks.components`) is as good as its teacher less what it fails to
learn, which is measured on lessons it was not given.  It is an emulator like any other, with its
teacher's labels, domain and known errors, and rest-frame pixels of its own: rotation, velocity
and the rest of the instrument come after it, as they do after the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emulators.emulator import Emulator
from emulators.error_model import ErrorModel
from emulators.grid import Grid
from emulators.lessons import View, write_lessons
from emulators.metrics import evaluate
from emulators.networks import build
from emulators.recipe import Recipe
from emulators.storage import load
from emulators.training import recipe_of, train

#: how much sharper than an instrument a student's spectra are: what is left to convolve is
#: then wide enough to be convolved exactly
SHARPER = 1.5
#: spectra that the components are taken from
FOR_COMPONENTS = 16_384
RECIPE = Recipe(steps=20_000, batch=256, learning_rate=2e-3, matrix_rate=6e-3, ema=0.999,
                weight_decay=0.0, validate_every=1000, checkpoint_every=1000)


def distill(
    teacher: Emulator | str | Path, *, out: str | Path,
    wavelength: tuple[float, float] | None = None, instrument: Any = None,
    resolution: float | None = None, spectra: int = 20_000,
    options: Mapping[str, Any] | None = None, name: str | None = None, seed: int | None = None,
    resume: bool = False, recipe: Recipe | None = None, device: str = "cpu",
    progress: bool = True, **settings: Any,
) -> Emulator:
    """Teach a small network what a large one knows, for one survey's pixels.

    Parameters
    ----------
    teacher : Emulator or name or path
    out : path
        Folder of the run: the lessons, checkpoints, and the student in ``out/best``.
    wavelength : (float, float) or array, optional
        Angstrom in the teacher's medium, at rest: the student covers what lies between the
        ends.  All that the teacher covers by default.
    instrument : float or Instrument, optional
        The survey's resolution R = wavelength / FWHM, or something with that attribute: the
        student's spectra are half as sharp again, and what is missing is convolved
        exactly.  Without it they are as sharp as the teacher's.
    resolution : float, optional
        Of the student's spectra, in place of `instrument`.
    spectra : int
        How many the teacher makes for training, in blocks of 256.
    options : dict, optional
        Of the network: ``hidden``, ``layers``, ``components``.
    name : str, optional
        Of the student; ``TEACHER-student`` by default.
    seed : int, optional
        Of the lessons and the training; that of `recipe`, or 0, by default.
    resume : bool
        Go on with what is in `out`.
    recipe : Recipe, optional
        Of the training.
    device : str
    progress : bool
        Show progress bars.
    **settings
        Fields of :class:`Recipe`, overriding `recipe`.

    Returns
    -------
    Emulator
        Its ``metrics`` are against its teacher, on label vectors it has not seen; its
        ``errors``, where the teacher's are known, against the synthesis.

    Raises
    ------
    ValueError
        As `View` and :func:`emulators.train`, and for a folder that holds another
        distillation.

    Examples
    --------
    >>> student = distill("mgb-fgk", out="runs/student", instrument=20_000)  # doctest: +SKIP
    """
    recipe = recipe_of(recipe or RECIPE, settings if seed is None else {**settings, "seed": seed})
    seed = recipe.seed
    if instrument is not None and resolution is not None:
        raise ValueError("give instrument= or resolution=, not both")
    if not isinstance(spectra, (int, np.integer)) or spectra < 1:
        raise ValueError(f"spectra must be a whole number of at least 1, got {spectra!r}")
    if not isinstance(teacher, Emulator):
        teacher = load(teacher, device=device)
    low, high = _ends(teacher, wavelength)
    view = View(teacher, low, high, _resolution(instrument, resolution))
    student = _untaught(view, options, seed)
    folder = Path(out)
    grid = write_lessons(view, folder, spectra=int(spectra), seed=seed, resume=resume,
                         progress=progress)
    with grid:
        _begin(student, grid, seed)
        student = train(grid, init=student, out=folder, resume=resume,
                        recipe=recipe, device=device, progress=progress,
                        name=name or f"{teacher.name}-student")
        _round(student)
        student.metrics = evaluate(student, grid)
    student.provenance["teacher"] = {
        "name": teacher.name, "sha256": teacher.sha256, "added": student.metrics,
        "provenance": teacher.provenance}
    student.errors = _errors(view, student)
    student.save(folder / "best")
    return student


def _ends(teacher: Emulator, wavelength: Any) -> tuple[float, float]:
    """Return the ends of what the student should cover."""
    if wavelength is None:
        return teacher.wavelength_range
    array = np.asarray(wavelength, dtype=float)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"wavelength is {wavelength!r}; expected its ends, or pixels, in Å")
    return float(array.min()), float(array.max())


def _resolution(instrument: Any, resolution: Any) -> float | None:
    """Return the resolution of the student's spectra."""
    given = resolution if instrument is None else getattr(instrument, "resolution", instrument)
    if given is None:
        return None
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = np.nan
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"the resolution is {given!r}; expected R = wavelength / FWHM")
    return value if instrument is None else SHARPER * value


def _untaught(view: View, options: Mapping[str, Any] | None, seed: int) -> Emulator:
    """Return a student that knows nothing yet."""
    teacher = view.teacher
    torch.manual_seed(seed)
    network: Any = build("components", len(teacher.labels), torch.as_tensor(view.pixels),
                         **(options or {}))
    return Emulator(network, teacher.labels, teacher.domain, view.pixels, teacher.medium,
                    name=f"components of {teacher.name}")


def _begin(student: Emulator, grid: Grid, seed: int) -> None:
    """Give a student the components of its lessons."""
    network: Any = student.network
    some = np.random.default_rng(seed).permutation(grid.rows("train"))[:FOR_COMPONENTS]
    some = np.sort(some)
    network.begin(student.labels.scale(torch.as_tensor(grid.labels[some]).double()),
                  torch.as_tensor(grid.flux(some)))


def _round(student: Emulator) -> None:
    """Round the weights to 16 bits, far below what the student errs by: half as large a file."""
    with torch.no_grad():
        for tensor in (*student.network.parameters(), *student.network.buffers()):
            if tensor.dtype == torch.float32:
                tensor.copy_(tensor.half())


def _errors(view: View, student: Emulator) -> ErrorModel | None:
    """Return the student's errors against the synthesis: its teacher's and its own."""
    known = view.teacher.errors
    if known is None:
        return None
    theirs = view(known.errors.float().to(view.teacher.device)).cpu()
    with torch.no_grad():
        said = student.flux(known.labels.to(student.device),
                            torch.as_tensor(student.pixels, device=student.device)).cpu().float()
    return ErrorModel(theirs + said - view.spectra(known.labels.numpy()), known.labels)
