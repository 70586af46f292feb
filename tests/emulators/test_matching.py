"""Starting on other labels: what both know is kept, what is new waits, what is gone is implied."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from emulators import Domain, Emulator, Grid, LabelSet, load, train
from emulators.matching import match, started_from
from emulators.networks import build

Settings = dict[str, Any]
UNITS = {"teff": "K", "vmic": "km/s", "he_frac": ""}
OLD = {"teff": (4000.0, 7000.0), "logg": (1.0, 5.0), "vmic": (0.5, 2.5), "he_frac": (0.04, 0.10),
       "fe_h": (-2.0, 0.6), "mg_h": (-2.0, 1.0), "ca_h": (-2.5, 1.0), "eu_h": (-2.2, 1.4)}
NEW = {"teff": (4600.0, 6200.0), "logg": (2.0, 4.9), "fe_h": (-1.0, 0.4), "mg_h": (-0.9, 0.8),
       "si_h": (-1.2, 0.7), "vsini": (0.0, 30.0)}
NETWORKS: dict[str, tuple[str, Settings]] = {
    "a token per label": ("transformer", {"dim": 12, "layers": 2, "heads": 3, "n_period": 8,
                                          "head": 8}),
    "tokens of all labels": ("transformer", {"dim": 12, "layers": 2, "heads": 3, "n_period": 8,
                                             "head": 8, "tokens": 3}),
    "mlp": ("mlp", {"hidden": 12}),
    "cnn": ("cnn", {"hidden": 12, "channels": 4}),
}


def label_set(ranges: dict[str, tuple[float, float]]) -> LabelSet:
    low, high = zip(*ranges.values(), strict=True)
    return LabelSet(tuple(ranges), tuple(UNITS.get(n, "dex") for n in ranges), low, high)


@pytest.fixture(params=NETWORKS)
def base(request: pytest.FixtureRequest, grid: Grid) -> Emulator:
    """An untrained emulator of eight labels, at the pixels of the small grid."""
    torch.manual_seed(2)
    kind, options = NETWORKS[request.param]
    network = build(kind, len(OLD), torch.as_tensor(grid.wavelength), **options)
    with torch.no_grad():  # an untrained one hardly listens to its labels
        for parameter in network.parameters():
            parameter.mul_(2.0 if kind in ("cnn", "mlp") else 1.0)
    low, high = np.transpose(list(OLD.values()))
    return Emulator(network, label_set(OLD), Domain.box(low, high), grid.wavelength, "air",
                    name="base").freeze()


@pytest.fixture
def grid_of(write_grid: Callable[..., Path]) -> Callable[..., Grid]:
    """Write a grid of other labels, drawn between their limits; its fluxes mean nothing."""
    def make(ranges: dict[str, tuple[float, float]], name: str = "other.h5") -> Grid:
        path = write_grid(name)
        low, high = np.transpose(list(ranges.values()))
        labels = np.random.default_rng(0).uniform(low, high, (60, len(ranges)))
        labels[:2] = low, high
        with h5py.File(path, "r+") as file:
            del file["labels"], file["domain"]
            file["labels"] = labels
            file["labels"].attrs.update(names=list(ranges),
                                        units=[UNITS.get(n, "dex") for n in ranges])
        return Grid(path)
    return make


def started(base: Emulator, grid: Grid) -> Emulator:
    network, labels, _ = started_from(base, grid)
    return Emulator(network, labels, grid.domain, grid.wavelength, grid.medium).freeze()


def stars(grid: Grid) -> dict[str, Tensor]:
    """Labels of a few spectra of a grid, by name."""
    return {n: torch.as_tensor(grid.labels[2:9, i]) for i, n in enumerate(grid.label_set.names)}


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_new_label_has_no_effect_at_first(
    base: Emulator, grid_of: Callable[..., Grid]
) -> None:
    grid = grid_of({**OLD, "si_h": (-1.2, 0.7), "vsini": (0.0, 30.0)})
    emulator, values = started(base, grid), stars(grid)
    flux = emulator(values, grid.wavelength)
    known = {n: v for n, v in values.items() if n in OLD}
    assert flux.std(dim=0).max() > 1e-2
    close(flux, base(known, grid.wavelength))
    moved = {**values, "si_h": values["si_h"].flip(0), "vsini": torch.zeros(7)}
    assert torch.equal(emulator(moved, grid.wavelength), flux)


def test_labels_that_are_gone_are_what_a_users_silence_makes_them(
    base: Emulator, grid_of: Callable[..., Grid]
) -> None:
    grid = grid_of(NEW)
    values = stars(grid)
    # said in full: helium is that of the Sun, calcium and europium follow iron, and the
    # microturbulence is held at the middle of its scale
    full = {"teff": values["teff"], "logg": values["logg"], "vmic": torch.full((7,), 1.5),
            "he_frac": torch.full((7,), 0.0784), "fe_h": values["fe_h"], "mg_h": values["mg_h"],
            "ca_h": values["fe_h"], "eu_h": values["fe_h"]}
    close(started(base, grid)(values, grid.wavelength), base(full, grid.wavelength))


def test_without_iron_elements_that_are_gone_are_solar(
    base: Emulator, grid_of: Callable[..., Grid]
) -> None:
    grid = grid_of({n: v for n, v in OLD.items() if n not in ("fe_h", "ca_h")})
    values, sun = stars(grid), torch.zeros(7)
    close(started(base, grid)(values, grid.wavelength),
          base({**values, "fe_h": sun, "ca_h": sun}, grid.wavelength))


def test_the_order_of_the_labels_does_not_matter(
    base: Emulator, grid_of: Callable[..., Grid]
) -> None:
    grid = grid_of(dict(reversed(OLD.items())))
    emulator, values = started(base, grid), stars(grid)
    assert emulator.labels.names == tuple(reversed(OLD))
    close(emulator(values, grid.wavelength), base(values, grid.wavelength))


def test_labels_of_the_same_names_leave_the_network_alone(
    base: Emulator, grid_of: Callable[..., Grid]
) -> None:
    narrower = {n: (0.9 * a + 0.1 * b, b) for n, (a, b) in OLD.items()}
    network, labels, matching = started_from(base, grid_of(narrower))
    assert labels == base.labels
    assert matching.trivial
    assert all(torch.equal(t, base.network.state_dict()[n])
               for n, t in network.state_dict().items())


def test_a_label_that_never_varied_still_does_nothing(
    grid: Grid, grid_of: Callable[..., Grid]
) -> None:
    network = build("mlp", 3, torch.as_tensor(grid.wavelength), hidden=8)
    labels = label_set({"teff": (4000.0, 7000.0), "he_frac": (0.0784, 0.0784),
                        "fe_h": (-2.0, 1.0)})
    limits = Domain.box([4000.0, 0.0, -2.0], [7000.0, 1.0, 1.0])
    base = Emulator(network, labels, limits, grid.wavelength, "air").freeze()
    box = {"fe_h": (-1.0, 0.5), "teff": (5000.0, 6000.0)}
    for other in (grid_of(box, "a.h5"), grid_of({**box, "he_frac": (0.05, 0.1)}, "b.h5")):
        values = stars(other)
        close(started(base, other)(values, other.wavelength),
              base({**values, "he_frac": torch.full((7,), 0.0784)}, other.wavelength))


def test_starting_again_and_again_is_starting_once(
    base: Emulator, grid_of: Callable[..., Grid], tmp_path: Path
) -> None:
    first, second = grid_of(NEW, "one.h5"), grid_of({**OLD, "si_h": (-1.0, 1.0)}, "two.h5")
    emulator = started(load(started(base, first).save(tmp_path / "once")), second)
    values = stars(second)
    # europium and calcium came back as new labels, and still follow iron until they learn
    full = {n: values[n] for n in ("teff", "logg", "fe_h", "mg_h")}
    close(emulator({**values, "ca_h": values["fe_h"], "vmic": torch.ones(7)}, second.wavelength),
          base({**full, "vmic": torch.full((7,), 1.5)}, second.wavelength))
    saved = load(emulator.save(tmp_path / "twice"))
    assert torch.equal(saved(values, second.wavelength), emulator(values, second.wavelength))


def test_the_base_is_left_as_it_was(base: Emulator, grid_of: Callable[..., Grid]) -> None:
    before = {n: t.clone() for n, t in base.network.state_dict().items()}
    config = dict(base.network.config)
    started_from(base, grid_of(NEW))
    assert base.network.config == config
    after = base.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(t, before[n]) for n, t in after.items())


def test_it_says_what_became_of_every_label() -> None:
    assert str(match(label_set(OLD), label_set(NEW))) == (
        "4 labels matched by name; new, without effect at first: si_h, vsini; "
        "not in the grid, following iron: ca_h, eu_h; "
        "not in the grid, held at: vmic = 1.5, he_frac = 0.0784"
    )
    assert str(match(label_set(OLD), label_set(OLD))) == "8 labels matched by name"


def test_a_label_of_both_keeps_the_scale_of_the_older(
    base: Emulator, grid_of: Callable[..., Grid]
) -> None:
    _, labels, _ = started_from(base, grid_of(NEW))
    scale = {n: (a, b) for n, a, b in zip(labels.names, labels.low, labels.high, strict=True)}
    assert scale == {n: OLD.get(n, NEW[n]) for n in NEW}
    assert labels.units == ("K", "dex", "dex", "dex", "dex", "dex")


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_fine_tuning_learns_the_new_label(
    grid: Grid, small: Settings, tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    # magnesium makes lines of its own in the small grid; the base has never heard of it
    torch.manual_seed(1)
    names = [n for n in grid.label_set.names if n != "mg_h"]
    ranges = {n: (grid.label_set.low[grid.label_set.index(n)],
                  grid.label_set.high[grid.label_set.index(n)]) for n in names}
    network = build("transformer", 3, torch.as_tensor(grid.wavelength),
                    **{**small, "tokens": None})
    box = Domain.box(*np.transpose(list(ranges.values())))
    base = Emulator(network, label_set(ranges), box, grid.wavelength, "air", name="no-mg")
    base.save(tmp_path / "base")

    network, labels, _ = started_from(base, grid)
    scaled = torch.as_tensor(labels.scale(grid.labels), dtype=torch.float32)
    network(scaled[:8], torch.as_tensor(grid.wavelength)).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())

    with caplog.at_level(logging.INFO, logger="emulators"):
        tuned = train(grid, init=tmp_path / "base", mode=mode, steps=150, batch=16, pixels=64,
                      warmup=20, validate_every=150, progress=False,
                      out=tmp_path / "run")
    told = "3 labels matched by name; new, without effect at first: mg_h"
    assert load(tmp_path / "run" / "best").provenance["init"]["labels"] == told
    assert f"init 'no-mg': {told}" in caplog.messages
    poor, rich = (tuned({"teff": 5000.0, "logg": 4.0, "fe_h": -0.5, "mg_h": x}, grid.wavelength)
                  for x in (-0.8, -0.2))
    assert (poor - rich).abs().max() > 0.02


def test_fine_tuning_learns_a_label_that_never_varied_in_pretraining(
    grid: Grid, small: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # the paper's own workflow: pretraining at one temperature
    torch.manual_seed(1)
    names = grid.label_set.names
    ranges = {n: (a, b) for n, a, b in zip(names, grid.label_set.low, grid.label_set.high,
                                           strict=True)}
    ranges["teff"] = (5000.0, 5000.0)
    network = build("transformer", 4, torch.as_tensor(grid.wavelength), **small)
    box = Domain.box(*np.transpose(list(ranges.values())))
    base = Emulator(network, label_set(ranges), box, grid.wavelength, "air", name="one-teff")
    with caplog.at_level(logging.WARNING, logger="emulators"):
        tuned = train(grid, init=base, steps=300, batch=16, pixels=64, warmup=20,
                      validate_every=300, progress=False)
    assert "init 'one-teff': 3 labels matched by name; new, without effect at first: teff" in (
        caplog.messages)
    cool, hot = (tuned({"teff": t, "logg": 4.0, "fe_h": -0.3, "mg_h": -0.3}, grid.wavelength)
                 for t in (4700.0, 6300.0))
    assert (cool - hot).abs().max() > 0.02


def test_ratios_to_iron_are_added_to_iron(
    base: Emulator, grid_of: Callable[..., Grid]
) -> None:
    ranges = {**OLD, "mg_fe": (-0.3, 0.5), "ca_fe": (-0.2, 0.4)}
    grid = grid_of({n: v for n, v in ranges.items() if n not in ("mg_h", "ca_h")})
    assert match(base.labels, grid.label_set).ratios == ("mg_fe", "ca_fe")
    values = stars(grid)
    full = {n: v for n, v in values.items() if n not in ("mg_fe", "ca_fe")}
    full |= {f"{x}_h": values["fe_h"] + values[f"{x}_fe"] for x in ("mg", "ca")}
    close(started(base, grid)(values, grid.wavelength), base(full, grid.wavelength))


def test_labels_in_other_units_are_refused(
    base: Emulator, grid_of: Callable[..., Grid]
) -> None:
    grid = grid_of({**OLD, "teff": (4.0, 7.0)})
    grid.close()
    with h5py.File(grid.path, "r+") as file:
        units = [UNITS.get(n, "dex") for n in OLD]
        file["labels"].attrs["units"] = ["kK", *units[1:]]
    with pytest.raises(ValueError, match=r"other units than init: teff in kK \(K in init\)"):
        started_from(base, Grid(grid.path))


def test_it_warns_of_labels_and_wavelengths_far_from_all_it_has_seen(
    base: Emulator, grid_of: Callable[..., Grid], caplog: pytest.LogCaptureFixture
) -> None:
    grid = grid_of({**OLD, "logg": (1.0, 15.0)})
    started_from(base, grid)
    far, = (m for m in caplog.messages if "reach far" in m)
    assert far.endswith("logg (6.0)")
    grid.close()
    if not base.network.all_pixels:
        with h5py.File(grid.path, "r+") as file:
            file["wavelength"][:] *= 1.5
        started_from(base, Grid(grid.path))
        assert any("all that init 'base' has seen" in m for m in caplog.messages)


def test_a_grid_of_other_labels_altogether_is_refused(
    base: Emulator, grid_of: Callable[..., Grid]
) -> None:
    grid = grid_of({"mass": (0.5, 2.0), "age": (0.0, 13.0)})
    with pytest.raises(ValueError, match=r"the grid and init have no label in common: mass, age, "
                                         r"\.\.\. against teff, logg, vmic, he_frac, fe_h, \.\.\."):
        started_from(base, grid)


def test_a_grid_in_the_other_medium_is_refused(
    base: Emulator, write_grid: Callable[..., Path]
) -> None:
    path = write_grid()
    with h5py.File(path, "r+") as file:
        file["wavelength"].attrs["medium"] = "vacuum"
    with pytest.raises(ValueError, match="is in vacuum, but init 'base' is in air"):
        started_from(base, Grid(path))


def test_a_cannon_is_no_start_for_other_labels(
    grid: Grid, grid_of: Callable[..., Grid]
) -> None:
    cannon = train(grid, network="cannon", progress=False)
    with pytest.raises(ValueError, match="solved in closed form: nothing to fine-tune"):
        train(grid_of(NEW), init=cannon, progress=False)
