"""Training: one visible loop for pretraining and fine-tuning.

Every batch is a function of (seed, step) alone, so a run that is killed and resumed sees
exactly what it would have seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from emulators.emulator import Emulator, load
from emulators.grid import Grid
from emulators.labels import LabelSet, unknown_names
from emulators.metrics import evaluate
from emulators.networks import build, kind_of
from emulators.recipe import Recipe
from emulators.run import Run


def train(
    grid: Grid | str | Path, *, network: str = "transformer",
    init: Emulator | str | Path | None = None, out: str | Path | None = None,
    resume: bool = False, labels: LabelSet | None = None, name: str | None = None,
    options: dict[str, Any] | None = None, recipe: Recipe | None = None,
    device: str = "cpu", progress: bool = True, **settings: Any,
) -> Emulator:
    """Train an emulator on a grid, from scratch or from another emulator.

    Parameters
    ----------
    grid : Grid or path
        Its training split is learnt from; its validation split chooses the best state.
    network : str
        Architecture: ``transformer`` or ``mlp``.
    init : Emulator or name or path, optional
        Fine-tune all weights of a copy of this emulator, which brings its own `network`,
        `options` and `labels`.
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
    progress : bool
        Show a progress bar.
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
        For an unknown setting, network or option; labels of `init` and grid that differ;
        a grid without training spectra; a run folder that belongs to another run.

    Examples
    --------
    >>> emu = train("mgb-fgk.h5", init="mgb-base", out="runs/fgk",
    ...             steps=20_000, learning_rate=5e-4)               # doctest: +SKIP
    """
    recipe = _recipe(recipe, settings)
    grid = grid if isinstance(grid, Grid) else Grid(grid)
    if len(grid.rows("train")) == 0:
        raise ValueError(f"{grid!r} has no training spectra")
    torch.manual_seed(recipe.seed)
    emulator = _untrained(grid, network, init, labels, name, options)
    emulator.to(device)
    emulator.provenance = {
        "trained_on": grid.provenance, "recipe": asdict(recipe),
        "init": {"name": source.name, "sha256": source.sha256, "provenance": source.provenance}
        if (source := _source(init)) is not None else None,
    }
    run = Run(Path(out) if out is not None else None, emulator, recipe)
    start = run.restore() if resume else run.begin()
    _loop(grid, run, start, progress)
    return run.best()


def _recipe(recipe: Recipe | None, settings: dict[str, Any]) -> Recipe:
    valid = [f.name for f in fields(Recipe)]
    if wrong := [s for s in settings if s not in valid]:
        raise unknown_names(wrong, valid, what="setting")
    return replace(recipe or Recipe(), **settings)


def _source(init: Emulator | str | Path | None) -> Emulator | None:
    return init if init is None or isinstance(init, Emulator) else load(init)


def _untrained(
    grid: Grid, network: str, init: Emulator | str | Path | None, labels: LabelSet | None,
    name: str | None, options: dict[str, Any] | None,
) -> Emulator:
    """Return the emulator that training will fill in."""
    source = _source(init)
    scale = source.labels if source is not None else labels or grid.label_set
    if scale.names != grid.label_set.names:
        raise ValueError(
            f"labels of the grid and of {'init' if source else 'labels='} differ: "
            f"{', '.join(sorted(set(scale.names) ^ set(grid.label_set.names))) or 'their order'}"
        )
    pixels = torch.as_tensor(grid.wavelength)
    if source is None:
        module = build(network, len(scale), pixels, **(options or {}))
    else:
        module = _copy_onto(pixels, source, grid)
    return Emulator(module, scale, grid.domain, grid.wavelength, grid.medium,
                    name=name or grid.path.stem)


def _copy_onto(pixels: Tensor, source: Emulator, grid: Grid) -> nn.Module:
    """Return a copy of the network of `source` that knows the pixels of `grid`."""
    if source.medium != grid.medium:
        raise ValueError(
            f"{grid!r} is in {grid.medium}, but init '{source.name}' is in {source.medium}"
        )
    options: Any = source.network.config
    module = build(kind_of(source.network), len(source.labels), pixels, **options)
    try:
        module.load_state_dict(source.network.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"init '{source.name}' cannot start on the {grid.n_pix} pixels of {grid!r}: {error}"
        ) from error
    return module


def _loop(grid: Grid, run: Run, start: int, progress: bool) -> None:
    """Take the optimiser from step `start` to the end."""
    recipe, emulator = run.recipe, run.emulator
    loss_of = _loss_function(emulator.network, recipe)
    parameters = list(emulator.network.parameters())
    validate = len(grid.rows("validation")) > 0
    bar = tqdm(total=recipe.steps, initial=start, desc=emulator.name, unit="step",
               disable=None if progress else True)
    total, since, clock = 0.0, 0, time.perf_counter()
    emulator.network.train()
    for step, batch in enumerate(_batches(grid, emulator, recipe, start), start):
        for group in run.optimiser.param_groups:
            group["lr"] = recipe.rate(step)
        loss = loss_of(*batch)
        run.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, recipe.clip)
        run.optimiser.step()
        bar.update()
        total, since = total + float(loss.detach()), since + 1

        done, last = step + 1, step + 1 == recipe.steps
        _check_loss(total, done, recipe)  # before anything is kept
        if last or done % recipe.validate_every == 0:
            metrics = evaluate(emulator, grid) if validate else {}
            elapsed = time.perf_counter() - clock
            run.record(done, total / since, elapsed / since, metrics)
            bar.set_postfix(loss=f"{total / since:.2e}", mae=f"{metrics.get('mae', math.nan):.4f}")
            total, since, clock = 0.0, 0, time.perf_counter()
        if last or done % recipe.checkpoint_every == 0:
            run.checkpoint(done)
    bar.close()


def _check_loss(loss: float, step: int, recipe: Recipe) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} at step {step}: lower learning_rate (now "
            f"{recipe.learning_rate:g}), or look for bad fluxes in the grid"
        )


def _batches(
    grid: Grid, emulator: Emulator, recipe: Recipe, start: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield scaled labels (b, n_label), wavelengths (n,) or (b, n) and fluxes (b, n)."""
    rows, device = grid.rows("train"), emulator.device
    size = min(recipe.batch, len(rows))
    per_epoch = len(rows) // size
    scaled = emulator.labels.scale(grid.labels).astype(np.float32)
    wavelength = torch.as_tensor(grid.wavelength, device=device)
    for step in range(start, recipe.steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0 or step == start:
            order = np.random.default_rng([recipe.seed, 0, epoch]).permutation(rows)
        some = order[place * size:(place + 1) * size]
        flux: NDArray[np.float32] = grid.flux(some)
        at = wavelength
        if not emulator.network.all_pixels and recipe.pixels < grid.n_pix:
            generator = np.random.default_rng([recipe.seed, 1, step])
            drawn = generator.integers(grid.n_pix, size=(len(some), recipe.pixels))
            flux, at = np.take_along_axis(flux, drawn, axis=1), wavelength[torch.as_tensor(drawn)]
        yield (torch.as_tensor(scaled[some], device=device), at,
               torch.as_tensor(flux, device=device))


def _loss_function(network: nn.Module, recipe: Recipe) -> Callable[..., Tensor]:
    """Return labels, wavelength, flux -> mean squared error.

    In bf16 the weights are cast once per step and the gradient flows through the cast
    into the float32 weights; autocast would cast them again at every use.
    """
    def loss(parameters: dict[str, Tensor], labels: Tensor, at: Tensor, flux: Tensor) -> Tensor:
        emulated: Tensor = torch.func.functional_call(network, parameters, (labels, at))
        return ((emulated.float() - flux) ** 2).mean()

    compiled = torch.compile(loss) if recipe.compile else loss
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32

    def step_loss(labels: Tensor, at: Tensor, flux: Tensor) -> Tensor:
        parameters = {k: v.to(dtype) for k, v in network.named_parameters()}
        return torch.as_tensor(compiled(parameters, labels.to(dtype), at, flux))

    return step_loss
