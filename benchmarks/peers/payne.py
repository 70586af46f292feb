"""transformer-payne 0.10, run by the interpreter of its own environment.

``python payne.py SHAPE``: answer requests for the spectra (`serving`) of a network with random
weights, whose shape is the JSON object SHAPE.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from typing import Any

os.environ.update(JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu")
import jax
import jax.numpy as jnp
from serving import serve
from transformer_payne.transformer_payne import TransformerPayneModel


def prepare_with(shape: dict[str, Any]) -> Any:
    """Return what makes a function of work: all spectra at once, jitted."""
    model = TransformerPayneModel(**shape)
    some = jnp.linspace(3.70, 3.71, 8)
    weights = model.init(jax.random.PRNGKey(0), (some, jnp.zeros(shape["input_dim"])), train=False)

    def prepare(labels: Any, log_wavelength: Any) -> Any:
        at = jnp.asarray(log_wavelength)
        apply = jax.jit(jax.vmap(lambda star: model.apply(weights, (at, star), train=False)))
        stars = jnp.asarray(labels)
        return lambda: jax.block_until_ready(apply(stars))

    return prepare


if __name__ == "__main__":
    serve(prepare_with(json.loads(sys.argv[1])),
          {"transformer-payne": version("transformer-payne"), "jax": jax.__version__})
