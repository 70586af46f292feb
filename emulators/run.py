"""The folder of a training run.

It holds ``log.csv``, ``last.json`` with the weights it names (network, optimisers and step,
to resume from) and ``best`` (the emulator with the lowest validation MSE so far); a run that
trains adapters also ``adapter``.  Every file is written whole or not at all.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from emulators import lora
from emulators.emulator import Emulator
from emulators.files import atomic_write, sha256, write_json
from emulators.grid import Grid
from emulators.objective import optimisers_of
from emulators.recipe import Recipe
from emulators.storage import load, save_adapter

logger = logging.getLogger(__name__)


class Run:
    """The state of a training run and the folder that keeps it.

    Parameters
    ----------
    folder : Path, optional
        Without one, nothing is written.
    emulator : Emulator
        What is trained.
    recipe : Recipe
    grid : Grid
    adapters : Lora, optional
        What the network was adapted with.
    writes : bool
        Whether this process is the one that writes.
    """

    def __init__(
        self, folder: Path | None, emulator: Emulator, recipe: Recipe, grid: Grid, *,
        adapters: lora.Lora | None = None, writes: bool = True,
    ) -> None:
        self.folder, self.emulator, self.recipe, self.grid = folder, emulator, recipe, grid
        self.adapters, self.writes = adapters, writes
        self.parameters = dict(emulator.network.named_parameters())
        self.optimisers = optimisers_of(emulator.network, recipe)
        learnt = {n: p for n, p in self.parameters.items() if p.requires_grad}
        self.learnt = list(learnt.values())
        self.average = {n: p.detach().clone() for n, p in learnt.items()} if recipe.ema else {}
        self.lowest, self.stale = math.inf, 0
        self.best_state: dict[str, Tensor] = {}
        self.best_metrics: dict[str, float] = {}
        self.last = ""
        self._board: Any = None

    def begin(self, *, over: bool = False) -> int:
        """Start a new run; refuse a folder that holds another, unless it is to be written over."""
        if self.folder is not None:
            if (self.folder / "last.json").exists():
                raise ValueError(
                    f"'{self.folder}' holds a run already: pass resume=True (--resume) to go on "
                    f"with it, or another folder"
                )
            if (self.folder / "best").exists() and not over:
                raise ValueError(
                    f"'{self.folder / 'best'}' holds an emulator, but there is no checkpoint to go "
                    f"on from: pass resume=True (--resume) to write over it, or another folder"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.writes:  # of a run that ended before its first checkpoint
                (self.folder / "log.csv").unlink(missing_ok=True)
        return 0

    def restore(self) -> int:
        """Take up the run in the folder, if there is one; return the step to go on from."""
        if self.folder is None or not (self.folder / "last.json").exists():
            logger.warning("no checkpoint in '%s' to resume from: beginning", self.folder)
            return self.begin(over=True)
        state = json.loads((self.folder / "last.json").read_text())
        for what, value in self._identity().items():
            if (before := state["identity"].get(what)) != value:
                raise ValueError(
                    f"'{self.folder}' was begun with another {what}{_difference(before, value)}; "
                    f"resume with the same, or begin in another folder"
                )
        path = self.folder / state["weights"]
        if sha256(path) != state["sha256"]:
            raise ValueError(f"'{path}' is damaged; its SHA-256 is not the recorded one")
        self._take(load_file(path))
        self.last, self.stale = path.name, state["stale"]
        kept = self.folder / "best"
        if (kept / "emulator.json").is_file():
            best = load(kept)
            # What was measured of it since belongs to it still.
            self.emulator.sha256, self.emulator.errors = best.sha256, best.errors
            self.emulator.card = best.card
        elif state["lowest"] is not None:
            raise FileNotFoundError(f"'{kept}', the best state so far, is gone: put it back, or "
                                    "begin in another folder")
        if state["lowest"] is not None:
            self.lowest, self.best_metrics = state["lowest"], best.metrics
            self.best_state = best.network.state_dict()
        else:  # nothing to choose by: the newest state is the one to keep
            with self.averaged():
                self.best_state = lora.merged(self.emulator.network)
        if self.writes:
            self._drop_log_after(state["step"])
        logger.info("resuming '%s' at step %d", self.folder, state["step"])
        return int(state["step"])

    def _tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint holds, named ``what/parameter``."""
        tensors = {f"weights/{n}": p.detach() for n, p in self.parameters.items()}
        tensors |= {f"average/{n}": t for n, t in self.average.items()}
        names: dict[Tensor, str] = {p: n for n, p in self.parameters.items()}
        for optimiser in self.optimisers:
            for parameter, state in optimiser.state.items():
                tensors |= {f"{key}/{names[parameter]}": t for key, t in state.items()}
        return {n: t.cpu().contiguous() for n, t in tensors.items()}

    def _take(self, tensors: dict[str, Tensor]) -> None:
        """Put the tensors of a checkpoint where they were."""
        found = {n: t.shape for n, t in tensors.items() if n.startswith("weights/")}
        if found != {f"weights/{n}": p.shape for n, p in self.parameters.items()}:
            raise ValueError(
                f"'{self.folder}' was begun with another network; resume with the same one"
            )
        owners = {p: o for o in self.optimisers for g in o.param_groups for p in g["params"]}
        for full_name, tensor in tensors.items():
            what, name = full_name.split("/")
            parameter = self.parameters[name]
            if what == "weights":
                parameter.data.copy_(tensor)
            elif what == "average":
                self.average[name].copy_(tensor)
            else:  # AdamW counts its steps on the CPU
                where = parameter.device if tensor.ndim else "cpu"
                owners[parameter].state[parameter][what] = tensor.to(where)

    def checkpoint(self, step: int) -> None:
        """Keep what is needed to go on from here.

        Raises
        ------
        OSError
            When it cannot be written, a full disk for instance; the one before is whole.
        """
        if self.folder is None or not self.writes:
            return
        # Two files take turns, so that last.json always names one that is whole.
        last = f"last-{int(self.last == 'last-0.safetensors')}.safetensors"
        with self._writing(f"checkpoint of step {step}"):
            with atomic_write(self.folder / last) as temporary:
                save_file(self._tensors(), temporary)
            write_json(self.folder / "last.json", {
                "step": step, "weights": last, "sha256": sha256(self.folder / last),
                "lowest": None if math.isinf(self.lowest) else self.lowest, "stale": self.stale,
                "identity": self._identity(),
            })
        self.last = last

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Say of a file that cannot be written what there is to go on from."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            kept = (f"the checkpoint in '{self.last}' is whole" if self.last
                    else "there is no checkpoint before")
            raise OSError(f"no {what} could be written: {error}; {kept}; make room and resume"
                          ) from error

    def follow(self, step: int) -> None:
        """Move the average of the weights after a step, faster at the start of a run."""
        if self.average:
            decay = min(self.recipe.ema, (1.0 + step) / (10.0 + step))
            torch._foreach_lerp_(
                list(self.average.values()), [p.detach() for p in self.learnt], 1.0 - decay
            )

    @contextmanager
    def averaged(self) -> Iterator[Emulator]:
        """Give the emulator with its averaged weights, not training, for a block."""
        kept = {n: self.parameters[n].detach().clone() for n in self.average}
        self._set(self.average)
        self.emulator.network.eval()
        try:
            yield self.emulator
        finally:
            self.emulator.network.train()
            self._set(kept)

    def _set(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].data.copy_(value)

    def record(
        self, step: int, loss: float, seconds_per_step: float, metrics: dict[str, float]
    ) -> None:
        """Log a validation and keep the state if it is the best so far.

        The emulator holds the weights that were validated.

        Raises
        ------
        OSError
            When it cannot be written; the last checkpoint is whole.
        """
        fraction = self.recipe.schedule(step - 1)
        row = {"step": step, "rate": self.recipe.learning_rate * fraction,
               "matrix_rate": self.recipe.matrix_rate * fraction,
               "loss": loss, "seconds_per_step": round(seconds_per_step, 5), **metrics}
        logger.info("%s", row)
        if self.folder is not None and self.writes:
            with self._writing("line of the log"):
                self._log(self.folder / "log.csv", row)
        if self._board is not None:
            for key, value in row.items():
                self._board.add_scalar(key, value, step)
        score = metrics.get("mse", -math.inf)
        self.stale += 1
        if score < self.lowest or not metrics:
            self.lowest, self.stale = score if metrics else math.inf, 0
            self.best_metrics = metrics
            self.best_state = lora.merged(self.emulator.network)
            self.emulator.metrics = metrics
            self.emulator.errors, self.emulator.card = None, {}  # those of another state
            if self.folder is not None and self.writes:
                with self._writing("emulator"):
                    self.emulator.save(self.folder / "best")
                    if self.adapters is not None:
                        save_adapter(self.emulator, self.adapters, self.folder / "adapter")

    @contextmanager
    def tensorboard(self) -> Iterator[None]:
        """Write what is recorded in a block for TensorBoard too.

        Raises
        ------
        ModuleNotFoundError
            When TensorBoard is not installed.
        ValueError
            When the run has no folder.
        """
        if self.folder is None:
            raise ValueError("tensorboard=True needs out=, a folder to write to")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError(
                "tensorboard=True needs TensorBoard: pip install 'stellarfit[tensorboard]'"
            ) from error
        with SummaryWriter(str(self.folder / "tensorboard")) as board:
            self._board = board
            try:
                yield
            finally:
                self._board = None

    @staticmethod
    def _log(path: Path, row: dict[str, Any]) -> None:
        before = path.read_text() if path.exists() else ""
        with atomic_write(path) as temporary, open(temporary, "w", newline="") as stream:
            stream.write(before)
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            if not before:
                writer.writeheader()
            writer.writerow(row)

    @property
    def exhausted(self) -> bool:
        """Whether the validations have been without progress for too long."""
        return 0 < self.recipe.patience <= self.stale

    def _drop_log_after(self, step: int) -> None:
        """Forget the log lines of steps that will be taken again."""
        path = self.folder / "log.csv" if self.folder is not None else None
        if path is None or not path.exists():
            return
        head, *rows = path.read_text().splitlines(keepends=True) or [""]
        kept = [r for r in rows if int(r.split(",")[0]) <= step]
        with atomic_write(path) as temporary:
            temporary.write_text("".join([head, *kept]))

    def best(self) -> Emulator:
        """Return the emulator with the best state, its adapters merged."""
        lora.merge(self.emulator.network)
        self.emulator.network.load_state_dict(self.best_state)
        self.emulator.network.eval()
        self.emulator.metrics = self.best_metrics
        return self.emulator.freeze()

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to be gone on with."""
        history, emulator, grid = self.emulator.provenance, self.emulator, self.grid
        init = history.get("init") or {}
        chosen = hashlib.sha256(grid.split.tobytes() + grid.weight.tobytes()).hexdigest()
        identity = {
            "recipe": asdict(self.recipe), "grid": history["trained_on"]["sha256"],
            "choice of spectra and pixels": chosen,
            "init": init.get("sha256"), "labels": emulator.labels.to_dict(),
            "network": emulator.network.config,
            "set of adapters": None if self.adapters is None else asdict(self.adapters),
        }
        return dict(json.loads(json.dumps(identity)))


def _difference(before: Any, now: Any) -> str:
    """Return in which keys two dicts differ, in words; nothing for other things."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return ""
    pairs = {k: (before.get(k), now.get(k)) for k in {**before, **now}
             if before.get(k) != now.get(k)}
    return " (" + ", ".join(
        k if isinstance(a, dict | list) else f"{k} = {a}, now {b}" for k, (a, b) in pairs.items()
    ) + ")"
