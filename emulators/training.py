"""Training: one visible loop for pretraining and fine-tuning, on one device or many.

Every batch is a function of (seed, step) alone, so a run that is killed and resumed sees
exactly what it would have seen.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from emulators import lora as adapters
from emulators.batches import Batches
from emulators.emulator import Emulator
from emulators.grid import Grid
from emulators.grid_check import refuse_unnormalised
from emulators.labels import LabelSet, unknown_names
from emulators.lora import Lora
from emulators.matching import changed, started_from
from emulators.metrics import evaluate
from emulators.networks import build
from emulators.objective import Objective
from emulators.parallel import Processes, processes
from emulators.recipe import Recipe
from emulators.run import Run
from emulators.storage import load

MODES = ("full", "lora")
logger = logging.getLogger(__name__)


def train(
    grid: Grid | str | Path, *, network: str | None = None,
    init: Emulator | str | Path | None = None, mode: str = "full",
    lora: Lora | Mapping[str, Any] | None = None, out: str | Path | None = None,
    resume: bool = False, labels: LabelSet | None = None, name: str | None = None,
    options: Mapping[str, Any] | None = None, recipe: Recipe | None = None,
    device: str = "cpu", progress: bool = True, tensorboard: bool = False, **settings: Any,
) -> Emulator:
    """Train an emulator on a grid, from scratch or from another emulator.

    Under ``torchrun`` the processes share each batch and give the weights that one process
    would, up to rounding (which Muon, whose products are in bfloat16, makes the most of) and
    to the dropout of adapters, which each draws for itself; the first of them validates and
    writes.

    Parameters
    ----------
    grid : Grid or path
        Its training split is learnt from; its validation split chooses the best state.
    network : str, optional
        Architecture: ``transformer`` (the default), ``mlp``, ``cnn``, ``cannon`` or
        ``components``, which starts at random here: only :func:`emulators.distill` has it begin
        with the principal components of its spectra.
    init : Emulator or name or path, optional
        Fine-tune a copy of this emulator, which brings its own `network` and `options`, and
        the scale of the labels that both know (so `labels` must not be given either); labels
        are matched by name (`emulators.matching`).
    mode : {"full", "lora"}
        With `init`: learn all weights, or low-rank adapters of some, which are kept in
        ``out/adapter`` on their own and merged in the emulator that is returned.
    lora : Lora or dict, optional
        Rank, targets and the like of the adapters.
    out : path, optional
        Folder of the run; without one, nothing is written.
    resume : bool
        Go on from ``out/last`` if it is there.
    labels : LabelSet, optional
        Scale of the labels; give one that spans all the grids when a model pretrained on
        one is to be fine-tuned on another (`LabelSet.spanning`).
    name : str, optional
        Of the emulator; that of the grid's file by default.
    options : dict, optional
        Of the architecture, such as ``{"dim": 128, "layers": 8}``.
    recipe : Recipe, optional
    device : str
        ``cpu``, ``cuda``, ...
    progress : bool
        Show a progress bar.
    tensorboard : bool
        Write the log for TensorBoard too, in ``out/tensorboard``.
    **settings
        Fields of :class:`Recipe`, overriding `recipe`.

    Returns
    -------
    Emulator
        The best on the validation split, with its metrics; after the last step when the
        grid has none.

    Raises
    ------
    ValueError
        For an unknown setting, network, mode or option; for what `init` brings and is given
        too; labels of `init` and grid of which none match; units of `init` or `labels` that are
        not those of the grid; a grid
        without training spectra; a run folder that belongs to another run.
    FileNotFoundError
        When there is no such grid or `init`, or the run to go on with has lost its best state.
    FloatingPointError
        When the loss is not finite.
    OSError
        When a checkpoint cannot be written; the one before is whole.

    Examples
    --------
    >>> emu = train("mgb-fgk.h5", init="mgb-base", out="runs/fgk",
    ...             steps=20_000, learning_rate=5e-4)               # doctest: +SKIP
    >>> emu = train("few.h5", init="mgb-base", mode="lora",
    ...             lora={"rank": 16})                              # doctest: +SKIP
    """
    recipe, lora = recipe_of(recipe, settings), lora_of(mode, lora, init)
    grid = grid if isinstance(grid, Grid) else Grid(grid)
    if len(grid.rows("train")) == 0:
        raise ValueError(f"{grid!r} has no training spectra")
    refuse_unnormalised(grid)
    group = processes(device)
    torch.manual_seed(recipe.seed)
    source = init if init is None or isinstance(init, Emulator) else load(init)
    emulator = _untrained(grid, network, source, labels, name, options)
    # The whole file is hashed: once, not by every process.
    emulator.provenance["trained_on"] = group.agree(grid.provenance if group.first else {})
    emulator.provenance["recipe"] = asdict(recipe)
    if lora is not None and source is not None:
        if out is not None and not source.sha256:
            raise ValueError(
                f"adapters are bound to the hash of their base: save init '{source.name}' first"
            )
        # What takes in new labels must learn, and belongs to the adapters.
        fresh = changed(source.network, emulator.network)
        lora = replace(lora, unfreeze=(*lora.unfreeze, *fresh))
        adapters.attach(emulator.network, lora)
    emulator.to(group.device)
    run = Run(Path(out) if out is not None else None, emulator, recipe, grid,
              adapters=lora, writes=group.first)
    start = run.restore() if resume else run.begin()
    group.meet()  # none writes before all have looked
    with run.tensorboard() if tensorboard and group.first else contextlib.nullcontext():
        if not emulator.network.closed_form:
            _loop(run, start, group, progress and group.first)
        elif start == 0:
            _solve(run)
    best = run.best()
    best.sha256 = group.agree(best.sha256)  # the first has written it, all may read it
    return best


def recipe_of(recipe: Recipe | None, settings: dict[str, Any]) -> Recipe:
    """Return a recipe with some of its fields replaced, checked."""
    valid = [f.name for f in fields(Recipe)]
    if wrong := [s for s in settings if s not in valid]:
        raise unknown_names(wrong, valid, what="setting")
    return replace(recipe or Recipe(), **settings)


def lora_of(mode: str, lora: Lora | Mapping[str, Any] | None, init: Any) -> Lora | None:
    """Return the adapters that a mode of training asks for, checked."""
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; valid: {', '.join(MODES)}")
    if mode == "full":
        if lora is not None:
            raise ValueError("lora= goes with mode='lora'")
        return None
    if init is None:
        raise ValueError("mode='lora' adapts an emulator: say which with init=")
    if lora is None or isinstance(lora, Lora):
        return lora or Lora()
    valid = [f.name for f in fields(Lora)]
    if wrong := [s for s in lora if s not in valid]:
        raise unknown_names(wrong, valid, what="setting of lora")
    return Lora(**lora)


def _untrained(
    grid: Grid, network: str | None, source: Emulator | None, labels: LabelSet | None,
    name: str | None, options: Mapping[str, Any] | None,
) -> Emulator:
    """Return the emulator that training will fill in."""
    provenance: dict[str, Any] = {"init": None}
    given = {"network": network, "options": options, "labels": labels}
    if source is not None and (extra := [k for k, v in given.items() if v]):
        raise ValueError(
            f"init '{source.name}' brings its own {', '.join(extra)}: leave out "
            + ", ".join(f"{k}=" for k in extra)
        )
    if source is None:
        scale = labels or grid.label_set
        if scale.names != grid.label_set.names:
            raise ValueError(
                "labels of the grid and of labels= differ: "
                + (", ".join(sorted(set(scale.names) ^ set(grid.label_set.names)))
                   or "their order")
            )
        units = zip(scale.names, scale.units, grid.label_set.units, strict=True)
        if wrong := [f"{n} in {a} ({b} in the grid)" for n, a, b in units if a and b and a != b]:
            raise ValueError(f"labels= has other units than the grid: {', '.join(wrong)}")
        module = build(network or "transformer", len(scale), torch.as_tensor(grid.wavelength),
                       **(options or {}))
    else:
        module, scale, matching = started_from(source, grid)
        provenance["init"] = {"name": source.name, "sha256": source.sha256,
                              "labels": str(matching), "provenance": source.provenance}
    return Emulator(module, scale, grid.domain, grid.wavelength, grid.medium,
                    name=name or grid.path.stem, provenance=provenance)


def _loop(run: Run, start: int, group: Processes, progress: bool) -> None:
    """Take the weights from step `start` to the end."""
    recipe, emulator = run.recipe, run.emulator
    batches = Batches(run.grid, emulator, recipe, rank=group.rank, world=group.world)
    objective = group.share(Objective(emulator.network, recipe))
    bar = tqdm(total=recipe.steps, initial=start, desc=emulator.name, unit="step",
               disable=None if progress else True)
    watch = _Watch()
    emulator.network.train()
    with bar:
        for step in range(start, recipe.steps):
            if run.exhausted:
                logger.info("no lower MSE in %d validations: stopping", run.stale)
                break
            watch.count(_step(run, objective, batches, step, group))
            run.follow(step)
            bar.update()

            done, last = step + 1, step + 1 == recipe.steps
            _check_loss(watch.total, done, recipe)  # before anything is kept
            if last or done % recipe.validate_every == 0:
                with run.averaged():
                    metrics = group.agree(_validate(run) if group.first else {})
                    _check_loss(metrics.get("mse", 0.0), done, recipe)
                    run.record(done, watch.loss, watch.seconds_per_step, metrics)
                bar.set_postfix(loss=f"{watch.loss:.2e}", mae=f"{metrics.get('mae', math.nan):.4f}")
                watch = _Watch()
            # What `best` holds must never be without a checkpoint to go on from.
            first = done >= recipe.validate_every and not run.last
            if last or first or run.exhausted or done % recipe.checkpoint_every == 0:
                run.checkpoint(done)


def _step(
    run: Run, objective: nn.Module, batches: Batches, step: int, group: Processes
) -> float:
    """Take one step; return the loss of this process's share of the batch."""
    # Dropout must not depend on how often the run was interrupted.
    torch.manual_seed(hash((run.recipe.seed, step, group.rank)) % 2**63)
    for optimiser in run.optimisers:
        optimiser.zero_grad()
        for settings in optimiser.param_groups:
            settings["lr"] = settings["peak"] * run.recipe.schedule(step)
    total, parts = 0.0, list(batches(step).parts(run.recipe.accumulate))
    for i, part in enumerate(parts, 1):
        with contextlib.nullcontext() if i == len(parts) else group.apart(objective):
            loss = objective(part) / len(parts)
            loss.backward()
        total += float(loss.detach())
    norm = nn.utils.clip_grad_norm_(run.learnt, run.recipe.clip)
    for optimiser in run.optimisers:
        optimiser.step()
    # All processes have the same norm: none keeps what has gone wrong in another's share.
    return total if math.isfinite(float(norm)) else math.nan


def _validate(run: Run) -> dict[str, float]:
    """Return the measures on the validation split, none where the grid has none."""
    has_some = len(run.grid.rows("validation")) > 0
    return evaluate(run.emulator, run.grid) if has_some else {}


class _Watch:
    """Mean loss and time per step since it was made."""

    def __init__(self) -> None:
        self.total, self.steps, self.began = 0.0, 0, time.perf_counter()

    def count(self, loss: float) -> None:
        self.total, self.steps = self.total + loss, self.steps + 1

    @property
    def loss(self) -> float:
        return self.total / self.steps

    @property
    def seconds_per_step(self) -> float:
        return (time.perf_counter() - self.began) / self.steps


def _check_loss(loss: float, step: int, recipe: Recipe) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} at step {step}: lower learning_rate (now "
            f"{recipe.learning_rate:g}){_matrix_rate(recipe)}, or look for bad fluxes in the grid"
        )


def _matrix_rate(recipe: Recipe) -> str:
    return f" and matrix_rate (now {recipe.matrix_rate:g})" if recipe.optimiser == "muon" else ""


def _solve(run: Run, chunk: int = 256) -> None:
    """Fit a network that has a solution in closed form, on the CPU, reading the grid once."""
    grid, emulator, rows = run.grid, run.emulator, run.grid.rows("train")
    device = emulator.device
    emulator.to("cpu")
    scaled = torch.as_tensor(emulator.labels.scale(grid.labels))
    solver = emulator.network.solver()  # type: ignore[operator]
    for some in np.array_split(rows, -(-len(rows) // chunk)):
        solver.add(scaled[some], torch.as_tensor(grid.flux(some)))
    watch = _Watch()
    watch.count(solver.solve())
    emulator.to(device)
    run.record(1, watch.loss, watch.seconds_per_step, _validate(run))
    run.checkpoint(1)
