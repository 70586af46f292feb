"""Chains go on exactly where they were, or say why they cannot."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from stellarfit import Spectrum
from stellarfit.posterior.density import Density
from stellarfit.posterior.importance import Importance
from tests.stellarfit.posterior.chains import draw


def test_same_seed_gives_the_same_chain_and_another_another(star, lines) -> None:
    one, again, other = (draw(star, lines, max_steps=10, seed=s).chain for s in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    "sampler", ["emcee", pytest.param("nuts", marks=pytest.mark.slow), "importance"])
def test_what_was_interrupted_goes_on_as_if_it_had_not_been(
        star, lines, tmp_path, monkeypatch, sampler) -> None:
    if sampler == "nuts":
        pytest.importorskip("pyro")
    from stellarfit.posterior.sampling import SAMPLERS

    monkeypatch.setattr(SAMPLERS[sampler], "block", 8)
    options = {"sampler": sampler, "walkers": 12 if sampler == "emcee" else None, "seed": 4}
    whole = draw(star, lines, max_steps=24, **options)
    file = tmp_path / "chains.h5"
    draw(star, lines, max_steps=13, checkpoint=file, **options)
    resumed = draw(star, lines, max_steps=24, checkpoint=file, **options)
    np.testing.assert_array_equal(resumed.samples, whole.samples)


def test_interrupted_draws_that_learn_go_on_as_if_they_had_not_been(density, monkeypatch) -> None:
    monkeypatch.setattr(Importance, "block", 32)
    narrow = Density(density.problem, density.best)
    narrow.__dict__["covariance"] = density.covariance * 0.2  # so that there is much to learn
    whole, parted = Importance(narrow, seed=1), Importance(narrow, seed=1)
    for steps in (32, 32, 32):
        whole.advance(steps, lambda: None)
    for steps in (32, 20, 12, 7, 25):
        parted.advance(steps, lambda: None)
    assert len(whole.state()["counts"]) > 1
    np.testing.assert_array_equal(parted.chain, whole.chain)


def test_chains_of_another_star_or_sampler_are_not_gone_on_with(star, lines, tmp_path) -> None:
    file = tmp_path / "chains.h5"
    draw(star, lines, max_steps=10, checkpoint=file)
    other = Spectrum(star.wavelength, 1.01 * star.flux, ivar=star.ivar, medium=star.medium)
    with pytest.raises(ValueError, match="holds chains of another data"):
        draw(other, lines, max_steps=10, checkpoint=file)
    with pytest.raises(ValueError, match="holds chains of another seed"):
        draw(star, lines, max_steps=10, checkpoint=file, seed=8)
    with pytest.raises(ValueError, match="holds chains of another priors"):
        draw(star, lines, max_steps=10, checkpoint=file, priors={"teff": "gaussian:5300:50"})
    with pytest.raises(ValueError, match="holds chains of another noise"):
        draw(star, lines, max_steps=10, checkpoint=file, correlation=0.3)
    (tmp_path / "broken.h5").write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        draw(star, lines, max_steps=10, checkpoint=tmp_path / "broken.h5")


def flipped(file):
    """One bit of one stored number, wherever the chain is in the file."""
    with h5py.File(file) as content:
        place = content["chain"].id.get_chunk_info(0).byte_offset + 3
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def edited(name, make):
    def edit(file):
        with h5py.File(file, "r+") as content:
            new = make(content[name][()])
            del content[name]
            if new is not None:
                content[name] = new
    return edit


def unnamed(file):
    with h5py.File(file, "r+") as content:
        content.attrs["identity"] = "{it"


@pytest.mark.parametrize("damage", [
    flipped, unnamed, edited("chain", lambda x: x[:, :5]), edited("chain", lambda x: x[..., :1]),
    edited("chain", lambda x: x * np.nan), edited("chain", lambda x: b"text"),
    edited("state/keys", lambda x: None), edited("state/keys", lambda x: x[:, :7]),
])
def test_a_damaged_checkpoint_is_named_and_not_gone_on_with(star, lines, tmp_path, damage) -> None:
    file = tmp_path / "chains.h5"
    draw(star, lines, max_steps=10, checkpoint=file)
    damage(file)
    with pytest.raises(ValueError, match=r"chains\.h5' is not a readable checkpoint"):
        draw(star, lines, max_steps=20, checkpoint=file)
