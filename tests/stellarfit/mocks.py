"""Small pieces that the tests build stars of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emulators import Emulator
from stellarfit.arm import Arm
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument
from stellarfit.noise import Noise
from stellarfit.optimize import Data
from stellarfit.parameters import Parameters
from stellarfit.readers import read


def arm_of(wavelength: np.ndarray, resolution: float) -> Arm:
    """An arm of constant resolution."""
    return Arm(wavelength, Instrument(f"R = {resolution:g}", resolution))


def model_of(
    emulator: Emulator, parameters: Parameters, wavelength: np.ndarray, *, resolution: float,
    rv_range: tuple[float, float] = (-50.0, 50.0),
) -> ForwardModel:
    """A model of one arm of constant resolution."""
    return ForwardModel(emulator, parameters, [arm_of(wavelength, resolution)], rv_range=rv_range)


def data_of(parameters: Parameters, flux: Tensor, weight: Tensor, terms: Tensor) -> Data:
    """Stars without priors, their continuum free."""
    count, n_free = len(flux), len(parameters)
    return Data(flux, Noise(weight), terms, torch.zeros(flux.shape[1], dtype=torch.float64),
                parameters.G, np.tile(parameters.h, (count, 1)),
                np.empty((count, 0, n_free)), np.empty((count, 0)))


def refusal(path: Path, **kwargs: Any) -> str:
    """The sentence with which a file is refused: one line that names the file."""
    with pytest.raises(ValueError) as caught:
        read(path, **kwargs)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert path.name in sentence
    return sentence
