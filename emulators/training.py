"""Training: one visible loop for pretraining and fine-tuning.

Every batch is a function of (seed, step) alone, so a run that is killed and resumed sees
exactly what it would have seen.  A run's folder holds ``log.csv``, ``last`` (network,
optimiser and step, to resume from) and ``best`` (the emulator with the lowest validation
MSE so far).
"""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from emulators.emulator import Emulator, load
from emulators.files import atomic_write, sha256, write_json
from emulators.grid import Grid
from emulators.labels import LabelSet, unknown_names
from emulators.metrics import evaluate
from emulators.networks import build, kind_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How to train; every field can be given to :func:`train` by name.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    batch : int
        Spectra per step.
    pixels : int
        Native pixels drawn at random per spectrum and step; networks that give whole
        spectra always take them all.
    learning_rate : float
        Peak rate of AdamW: linear warm-up, then a cosine to zero.
    warmup : int
        Steps of warm-up.
    weight_decay : float
    betas : (float, float)
    clip : float
        Largest norm of the gradient.
    precision : {"float32", "bf16"}
        ``bf16`` computes with a bfloat16 copy of the float32 weights.
    compile : bool
        Use `torch.compile`; faster after half a minute, needs a C++ compiler on CPU.
    seed : int
    validate_every, checkpoint_every : int
        In steps; the last step does both.
    """

    steps: int = 20_000
    batch: int = 16
    pixels: int = 256
    learning_rate: float = 1e-3
    warmup: int = 300
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    precision: str = "float32"
    compile: bool = False
    seed: int = 0
    validate_every: int = 2_000
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "pixels", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"unknown precision {self.precision!r}; valid: float32, bf16")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


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
        Architecture: ``transformer`` or ``mlp``.  Ignored with `init`.
    init : Emulator or name or path, optional
        Fine-tune all weights of a copy of this emulator.
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
    run = _Run(Path(out) if out is not None else None, emulator, recipe)
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


def _loop(grid: Grid, run: _Run, start: int, progress: bool) -> None:
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


class _Run:
    """The state of a training run and the folder that keeps it."""

    def __init__(self, folder: Path | None, emulator: Emulator, recipe: Recipe) -> None:
        self.folder, self.emulator, self.recipe = folder, emulator, recipe
        self.parameters = dict(emulator.network.named_parameters())
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=recipe.learning_rate, betas=recipe.betas,
            weight_decay=recipe.weight_decay,
        )
        self.lowest = math.inf
        self.best_state: dict[str, Tensor] = {}
        self.best_metrics: dict[str, float] = {}
        self.last = ""

    def begin(self) -> int:
        """Start a new run; refuse a folder that holds another."""
        if self.folder is not None:
            if (self.folder / "last.json").exists():
                raise ValueError(
                    f"'{self.folder}' holds a run already: pass resume=True to go on with it, "
                    f"or another folder"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            # of a run that ended before its first checkpoint
            (self.folder / "log.csv").unlink(missing_ok=True)
        return 0

    def restore(self) -> int:
        """Take up the run in the folder, if there is one; return the step to go on from."""
        if self.folder is None or not (self.folder / "last.json").exists():
            return self.begin()
        state = json.loads((self.folder / "last.json").read_text())
        if state["recipe"] != json.loads(json.dumps(asdict(self.recipe))):
            raise ValueError(
                f"'{self.folder}' was begun with another recipe; resume with the same one"
            )
        path = self.folder / state["weights"]
        if sha256(path) != state["sha256"]:
            raise ValueError(f"'{path}' is damaged; its SHA-256 is not the recorded one")
        tensors = load_file(path)
        found = {n: t.shape for n, t in tensors.items() if n.startswith("network.")}
        if found != {f"network.{n}": p.shape for n, p in self.parameters.items()}:
            raise ValueError(
                f"'{self.folder}' was begun with another network; resume with the same one"
            )
        self.last = path.name
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"network.{name}"])
            self.optimiser.state[parameter] = {
                "step": torch.tensor(float(state["step"])),
                **{k: tensors[f"{k}.{name}"].to(parameter.device)
                   for k in ("exp_avg", "exp_avg_sq")},
            }
        if state["lowest"] is not None:
            best = load(self.folder / "best")
            self.lowest, self.best_metrics = state["lowest"], best.metrics
            self.best_state = best.network.state_dict()
        else:  # nothing to choose by: the newest state is the one to keep
            self.best_state = self.emulator.network.state_dict()
        self._drop_log_after(state["step"])
        logger.info("resuming '%s' at step %d", self.folder, state["step"])
        return int(state["step"])

    def checkpoint(self, step: int) -> None:
        """Keep what is needed to go on from here."""
        if self.folder is None:
            return
        tensors = {f"network.{n}": p.detach().cpu() for n, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"{key}.{name}"] = self.optimiser.state[parameter][key].cpu()
        # Two files take turns, so that last.json always names one that is whole.
        self.last = f"last-{int(self.last == 'last-0.safetensors')}.safetensors"
        weights = self.folder / self.last
        with atomic_write(weights) as temporary:
            save_file(tensors, temporary)
        write_json(self.folder / "last.json", {
            "step": step, "weights": weights.name, "sha256": sha256(weights),
            "lowest": None if math.isinf(self.lowest) else self.lowest,
            "recipe": asdict(self.recipe),
        })

    def record(
        self, step: int, loss: float, seconds_per_step: float, metrics: dict[str, float]
    ) -> None:
        """Log a validation and keep the state if it is the best so far."""
        row = {"step": step, "rate": self.recipe.rate(step), "loss": loss,
               "seconds_per_step": round(seconds_per_step, 5), **metrics}
        logger.info("%s", row)
        if self.folder is not None:
            path = self.folder / "log.csv"
            new = not path.exists()
            with open(path, "a", newline="") as stream:
                writer = csv.DictWriter(stream, list(row))
                if new:
                    writer.writeheader()
                writer.writerow(row)
        score = metrics.get("mse", -math.inf)
        if score <= self.lowest or not metrics:
            self.lowest = score if metrics else math.inf
            self.best_metrics = metrics
            self.best_state = {k: v.detach().clone()
                               for k, v in self.emulator.network.state_dict().items()}
            if self.folder is not None:
                self.emulator.metrics = metrics
                self.emulator.save(self.folder / "best")

    def _drop_log_after(self, step: int) -> None:
        """Forget the log lines of steps that will be taken again."""
        path = self.folder / "log.csv" if self.folder is not None else None
        if path is None or not path.exists():
            return
        head, *rows = path.read_text().splitlines(keepends=True)
        kept = [r for r in rows if int(r.split(",")[0]) <= step]
        with atomic_write(path) as temporary:
            temporary.write_text("".join([head, *kept]))

    def best(self) -> Emulator:
        """Return the emulator with the best state."""
        self.emulator.network.load_state_dict(self.best_state)
        self.emulator.network.eval()
        self.emulator.metrics = self.best_metrics
        if self.folder is not None:
            self.emulator.save(self.folder / "best")
        return self.emulator
