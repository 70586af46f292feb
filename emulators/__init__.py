"""Emulators of synthetic stellar spectra: labels in, normalised flux at any wavelength out."""

from emulators.emulator import DomainWarning, Emulator, available, load
from emulators.grid import Grid
from emulators.labels import Domain, LabelSet
from emulators.metrics import evaluate
from emulators.training import Recipe, train

__all__ = [
    "Domain", "DomainWarning", "Emulator", "Grid", "LabelSet", "Recipe",
    "available", "evaluate", "load", "train",
]
