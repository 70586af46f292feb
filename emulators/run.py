"""The folder of a training run.

It holds ``log.csv``, ``last.json`` with the weights it names (network, optimiser and step,
to resume from) and ``best`` (the emulator with the lowest validation MSE so far).  Every
file is written whole or not at all.
"""

from __future__ import annotations

import csv
import json
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emulators.emulator import Emulator, load
from emulators.files import atomic_write, sha256, write_json
from emulators.recipe import Recipe

logger = logging.getLogger(__name__)


class Run:
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
                    f"'{self.folder}' holds a run already: pass resume=True (--resume) to go on "
                    f"with it, or another folder"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            # of a run that ended before its first checkpoint
            (self.folder / "log.csv").unlink(missing_ok=True)
        return 0

    def restore(self) -> int:
        """Take up the run in the folder, if there is one; return the step to go on from."""
        if self.folder is None or not (self.folder / "last.json").exists():
            logger.warning("no checkpoint in '%s' to resume from: beginning", self.folder)
            return self.begin()
        state = json.loads((self.folder / "last.json").read_text())
        for what, value in self._identity().items():
            if state["identity"][what] != value:
                raise ValueError(
                    f"'{self.folder}' was begun with another {what}; resume with the same"
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
            "identity": self._identity(),
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
        return self.emulator.freeze()

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to be gone on with."""
        history, emulator = self.emulator.provenance, self.emulator
        grid, init = history.get("trained_on") or {}, history.get("init") or {}
        identity = {
            "recipe": asdict(self.recipe), "grid": grid.get("sha256"),
            "init": init.get("sha256"), "labels": emulator.labels.to_dict(),
            "network": emulator.network.config,
        }
        return dict(json.loads(json.dumps(identity)))
