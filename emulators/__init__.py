"""Emulators of synthetic stellar spectra: labels in, normalised flux at any wavelength out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulators.distillation import distill
    from emulators.emulator import DomainWarning, Emulator
    from emulators.grid import Grid
    from emulators.grid_plot import plot_grid
    from emulators.labels import Domain, LabelSet
    from emulators.lora import Lora
    from emulators.measuring import measure_errors
    from emulators.metrics import evaluate
    from emulators.model_card import card
    from emulators.recipe import Recipe
    from emulators.sensitivity_plot import plot_sensitivity
    from emulators.storage import available, load
    from emulators.synthesis.recipe import GridRecipe
    from emulators.synthesis.synthesize import synthesize
    from emulators.training import train
    from emulators.training_plot import plot_training

__all__ = [
    "Domain", "DomainWarning", "Emulator", "Grid", "GridRecipe", "LabelSet", "Lora", "Recipe",
    "available", "card", "distill", "evaluate", "load", "measure_errors", "plot_grid",
    "plot_sensitivity", "plot_training", "synthesize", "train",
]

# Loaded at first use, so that the command line can answer --help without torch.
_HOMES = {
    "Domain": "labels", "DomainWarning": "emulator", "Emulator": "emulator", "Grid": "grid",
    "GridRecipe": "synthesis.recipe", "LabelSet": "labels", "Lora": "lora", "Recipe": "recipe",
    "available": "storage", "card": "model_card", "distill": "distillation",
    "evaluate": "metrics", "load": "storage", "measure_errors": "measuring",
    "plot_grid": "grid_plot", "plot_sensitivity": "sensitivity_plot",
    "plot_training": "training_plot", "synthesize": "synthesis.synthesize", "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'emulators' has no attribute {name!r}")
    return getattr(import_module(f"emulators.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
