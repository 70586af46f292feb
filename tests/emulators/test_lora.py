"""Low-rank adapters: an update of rank r, learnt alone, stored alone, merged exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from emulators import Emulator, Grid, Lora, evaluate, load, lora, train
from emulators.networks import build

Settings = dict[str, Any]
Same = Callable[[Emulator, Emulator], bool]
PIXELS = 5150.0 * torch.exp(1e-5 * torch.arange(60, dtype=torch.float64))
NETWORKS: dict[str, tuple[str, Settings, tuple[str, ...]]] = {
    "a token per label": ("transformer", {}, Lora().targets),
    "tokens of all labels": ("transformer", {"tokens": 3}, Lora().targets),
    "mlp": ("mlp", {"hidden": 12}, ("body.*",)),
    "cnn": ("cnn", {"hidden": 12, "channels": 4}, ("dense.*",)),
}


def make(kind: str) -> tuple[nn.Module, tuple[str, ...]]:
    """A random network in double precision, and the layers that may get adapters."""
    torch.manual_seed(0)
    name, options, targets = NETWORKS[kind]
    if name == "transformer":
        options = {"dim": 12, "layers": 2, "heads": 3, "n_period": 8, "head": 8, **options}
    return build(name, 5, PIXELS, **options).double().eval(), targets


def stir(network: nn.Module) -> None:
    """Give all adapters random values, as if they had been trained."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if name.endswith((".A", ".B")):
            values = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.data.copy_(0.3 * values)


@pytest.fixture
def labels() -> Tensor:
    return torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", NETWORKS)
def test_fresh_adapters_change_nothing_at_all(kind: str, labels: Tensor) -> None:
    network, targets = make(kind)
    with torch.no_grad():  # what needs a gradient is summed in another order
        before = network.requires_grad_(False)(labels, PIXELS)
    weights = dict(network.state_dict())
    assert lora.attach(network, Lora(rank=3, targets=targets))
    with torch.no_grad():
        assert torch.equal(network(labels, PIXELS), before)
    assert all(torch.equal(t, weights[n]) for n, t in lora.merged(network).items())


def test_an_adapter_adds_alpha_over_rank_times_b_a() -> None:
    network, _ = make("a token per label")
    query = network.blocks[1].query
    before = query.weight.detach().clone().numpy()
    assert lora.attach(network, Lora(rank=3, alpha=6.0, targets=("blocks.1.query",))) == [
        "blocks.1.query"]
    stir(network)
    A, B = (p.detach().numpy() for n, p in network.named_parameters() if n.endswith((".A", ".B")))
    assert A.shape == (3, 12)
    assert B.shape == (12, 3)
    np.testing.assert_allclose(query.weight.detach(), before + 6.0 / 3 * B @ A, atol=1e-15)
    assert np.linalg.matrix_rank(query.weight.detach().numpy() - before) == 3


@pytest.mark.parametrize("kind", NETWORKS)
def test_merging_changes_nothing_but_the_shape_of_the_network(kind: str, labels: Tensor) -> None:
    network, targets = make(kind)
    names, before = list(network.state_dict()), network(labels, PIXELS)
    lora.attach(network, Lora(rank=3, targets=targets))
    stir(network)
    apart = network(labels, PIXELS)
    in_chunks = network.evaluate(labels, PIXELS, chunk=30)
    state = lora.merged(network)
    lora.merge(network)
    assert (apart - before).abs().max() > 1e-3
    torch.testing.assert_close(network(labels, PIXELS), apart, rtol=0, atol=1e-6)
    torch.testing.assert_close(network.evaluate(labels, PIXELS, chunk=30), in_chunks,
                               rtol=0, atol=1e-6)
    assert sorted(network.state_dict()) == sorted(state) == sorted(names)
    assert all(torch.equal(state[n], t) for n, t in network.state_dict().items())


@pytest.mark.parametrize("kind", ["a token per label", "tokens of all labels"])
def test_folded_attention_has_the_adapters_in_it(kind: str, labels: Tensor) -> None:
    network, targets = make(kind)
    lora.attach(network, Lora(rank=3, targets=targets))
    stir(network)
    folded = network.fold(labels)
    lora.merge(network)
    for one, other in zip(folded, network.fold(labels), strict=True):
        for part, same in zip(one, other, strict=True):
            torch.testing.assert_close(part, same, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_only_adapters_and_what_is_unfrozen_learn(kind: str, labels: Tensor) -> None:
    network, targets = make(kind)
    bias = next(n for n, _ in network.named_parameters() if n.endswith("bias"))
    layers = lora.attach(network, Lora(rank=2, targets=targets, unfreeze=(bias,)))
    stir(network)
    network(labels, PIXELS).square().sum().backward()
    learnt = {n for n, p in network.named_parameters() if p.grad is not None}
    expected = {f"{layer}.parametrizations.weight.0.{x}" for layer in layers for x in "AB"}
    assert learnt == expected | {bias} == {
        n for n, p in network.named_parameters() if p.requires_grad}
    assert all(p.grad.abs().max() > 0 for p in network.parameters() if p.grad is not None)


def test_targets_are_last_names_or_patterns_of_whole_names() -> None:
    network, _ = make("a token per label")
    assert lora.attach(network, Lora(targets=("up", "head.*"))) == [
        "blocks.0.up", "blocks.1.up", "head.0", "head.2"]


def test_a_target_that_is_no_layer_lists_the_layers() -> None:
    network, _ = make("mlp")
    with pytest.raises(ValueError, match=r"no linear layer matches 'query'; there are: "
                                         r"body\.0, body\.2, body\.4"):
        lora.attach(network, Lora())
    with pytest.raises(ValueError, match=r"no parameter matches 'head\.\*'; there are: "
                                         r"body\.0\.weight, body\.0\.bias, "):
        lora.attach(network, Lora(targets=("body.0",), unfreeze=("head.*",)))


def test_dropout_makes_training_stochastic_and_nothing_else(labels: Tensor) -> None:
    network, targets = make("a token per label")
    lora.attach(network, Lora(rank=4, targets=targets, dropout=0.5))
    stir(network)
    calm = network(labels, PIXELS)
    assert torch.equal(network(labels, PIXELS), calm)
    network.train()
    torch.manual_seed(1)
    one, other = network(labels, PIXELS), network(labels, PIXELS)
    assert (one - other).abs().max() > 1e-3
    torch.manual_seed(1)
    assert torch.equal(network(labels, PIXELS), one)
    lora.merge(network)
    torch.testing.assert_close(network(labels, PIXELS), calm, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"rank": 0}, "rank must be an integer of at least 1, got 0"),
    ({"rank": "ten"}, "rank must be an integer of at least 1, got 'ten'"),
    ({"rank": 2.5}, "rank must be an integer of at least 1, got 2.5"),
    ({"alpha": "much"}, "alpha must be a number, got 'much'"),
    ({"dropout": "some"}, r"dropout must be in \[0, 1\), got 'some'"),
    ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
])
def test_impossible_adapters_are_refused(settings: Settings, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Lora(**settings)


def test_the_scale_is_one_unless_alpha_is_given() -> None:
    assert (Lora(rank=8).scale, Lora(rank=16).scale, Lora(rank=8, alpha=2.0).scale) == (1, 1, 0.25)


@pytest.fixture(params=["a token per label", "tokens of all labels"])
def base(request: pytest.FixtureRequest, grid: Grid, small: Settings, tmp_path: Path) -> Emulator:
    """An untrained transformer on disk in ``base``, in both ways to take labels in."""
    torch.manual_seed(3)
    options = {**small, "tokens": 4 if request.param == "tokens of all labels" else None}
    network = build("transformer", 4, torch.as_tensor(grid.wavelength), **options)
    emulator = Emulator(network, grid.label_set, grid.domain, grid.wavelength, "air", name="small")
    return load(emulator.save(tmp_path / "base"))


def state(emulator: Emulator) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in emulator.network.state_dict().items()}


def test_training_leaves_the_base_as_it_was(
    grid: Grid, base: Emulator, tmp_path: Path, further: Settings
) -> None:
    before = state(base)
    tuned = train(grid, init=base, mode="lora", out=tmp_path / "run", **further,
                  lora={"rank": 2, "targets": ["query", "up"], "unfreeze": ["head.2.bias"]})
    assert all(torch.equal(t, before[n]) for n, t in state(base).items())
    moved = {n for n, t in state(tuned).items() if not torch.equal(t, before[n])}
    assert moved == {"head.2.bias", *(f"blocks.{i}.{n}.weight" for i in (0, 1)
                                      for n in ("query", "up"))}
    # and what the checkpoint calls the original weight is that of the base, bit for bit
    named = json.loads((tmp_path / "run" / "last.json").read_text())["weights"]
    kept = load_file(tmp_path / "run" / named)
    originals = {n: t for n, t in kept.items() if n.endswith(".original")}
    assert len(originals) == 4
    for name, tensor in originals.items():
        plain = name.removeprefix("weights/").replace(".parametrizations.weight.original", "")
        assert torch.equal(tensor, before[f"{plain}.weight"])


def test_what_is_learnt_has_the_rank_that_was_asked_for(
    grid: Grid, base: Emulator, further: Settings
) -> None:
    before = state(base)
    tuned = train(grid, init=base, mode="lora", lora=Lora(rank=2), **further)
    for name in ("blocks.0.query.weight", "blocks.1.down.weight"):
        update = (state(tuned)[name] - before[name]).double()
        sizes = torch.linalg.svdvals(update)
        assert sizes[1] > 1e-4  # of float32 weights, to 1e-7
        assert sizes[2] < 1e-3 * sizes[1]


@pytest.mark.parametrize("settings", [
    {}, {"ema": 0.9}, {"lora": {"rank": 2, "dropout": 0.4, "unfreeze": ["*norm*", "head.*"]}},
    {"precision": "bf16", "optimiser": "adamw"},
], ids=["plain", "ema", "dropout and unfreeze", "bf16"])
def test_adapters_on_their_base_are_the_emulator_that_was_returned(
    grid: Grid, base: Emulator, tmp_path: Path, further: Settings, settings: Settings, same: Same
) -> None:
    tuned = train(grid, init=base, mode="lora", out=tmp_path / "run", **further, **settings)
    assert not same(tuned, base)
    adapted = load(tmp_path / "run" / "adapter", base=tmp_path / "base")
    assert same(adapted, tuned)
    assert same(load(tmp_path / "run" / "adapter", base=base), tuned)
    assert same(load(tmp_path / "run" / "best"), tuned)
    assert tuned.metrics == adapted.metrics == evaluate(tuned, grid)
    assert (adapted.name, adapted.labels) == (tuned.name, tuned.labels)
    assert adapted.provenance == json.loads(json.dumps(tuned.provenance))
    assert np.array_equal(adapted.domain.A, tuned.domain.A)
    assert np.array_equal(adapted.pixels, tuned.pixels)
    assert not any(p.requires_grad for p in adapted.network.parameters())


def _other_labels(path: Path) -> Path:
    """Reverse the labels of a grid and call magnesium calcium."""
    with h5py.File(path, "r+") as file:
        file["labels"][:] = file["labels"][:][:, ::-1]
        file["labels"].attrs.update(names=["ca_h", "fe_h", "logg", "teff"],
                                    units=["dex", "dex", "dex", "K"])
        del file["domain"]
    return path


def test_adapters_bring_what_takes_in_other_labels(
    base: Emulator, tmp_path: Path, further: Settings, same: Same,
    write_grid: Callable[..., Path],
) -> None:
    grid = Grid(_other_labels(write_grid()))
    tuned = train(grid, init=base, mode="lora", out=tmp_path / "run", **further)
    adapted = load(tmp_path / "run" / "adapter", base=base)
    assert same(adapted, tuned)
    assert adapted.labels.names == ("ca_h", "fe_h", "logg", "teff")
    assert evaluate(adapted, grid) == tuned.metrics


def test_adapters_go_on_no_other_base(
    grid: Grid, base: Emulator, tmp_path: Path, further: Settings
) -> None:
    train(grid, init=base, mode="lora", out=tmp_path / "run", **further)
    with torch.no_grad():
        next(base.network.parameters()).add_(1e-3)
    other = load(base.save(tmp_path / "other"))
    wanted = load(tmp_path / "base").sha256[:12]
    with pytest.raises(ValueError, match=f"adapts 'small@{wanted}', not "
                                         f"'small@{other.sha256[:12]}': say where"):
        load(tmp_path / "run" / "adapter", base=other)


def test_a_base_that_ships_need_not_be_given(
    grid: Grid, base: Emulator, tmp_path: Path, further: Settings, same: Same,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuned = train(grid, init=base, mode="lora", out=tmp_path / "run", **further)
    with pytest.raises(ValueError, match=f"adapts '{base.identity}', which does not ship: say "
                                         f"where it is with base="):
        load(tmp_path / "run" / "adapter")
    base.save(tmp_path / "ships" / "small")
    monkeypatch.setattr("emulators.storage.shipped", lambda: tmp_path / "ships")
    assert same(load(tmp_path / "run" / "adapter"), tuned)


def test_adapters_with_their_base_have_an_identity(folder: Path) -> None:
    base = load(folder.parents[1] / "base")
    adapted = load(folder, base=base)
    assert len(adapted.sha256) == 64
    assert adapted.sha256 not in (base.sha256, load(folder.parent / "best").sha256)
    assert load(folder, base=base).identity == adapted.identity


def test_no_emulator_is_saved_over_adapters(folder: Path, same: Same) -> None:
    base = load(folder.parents[1] / "base")
    adapted = load(folder, base=base)
    with pytest.raises(ValueError, match="holds adapters, which this would write over: save"):
        adapted.save(folder)
    assert same(load(folder, base=base), adapted)


def test_adapters_are_a_small_file_of_rank_times_width_numbers(
    grid: Grid, tmp_path: Path, further: Settings
) -> None:
    settings = {**further, "steps": 1, "batch": 2, "pixels": 8, "options": {}}
    train(grid, out=tmp_path / "base", **settings)
    train(grid, init=tmp_path / "base" / "best", mode="lora", lora={"rank": 4},
          out=tmp_path / "run", **settings)
    adapter, = (tmp_path / "run" / "adapter").glob("weights-*")
    whole, = (tmp_path / "run" / "best").glob("weights-*")
    assert adapter.stat().st_size < 0.15 * whole.stat().st_size
    numbers = sum(t.numel() for n, t in load_file(adapter).items() if n.endswith((".A", ".B")))
    square, wide = 4 * (64 + 64), 4 * (64 + 256)
    assert numbers == 6 * (4 * square + 2 * wide)  # six blocks of four square and two wide layers


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"lora": {"rank": 2}}, r"lora= goes with mode='lora'"),
    ({"lora": Lora(), "init": "base"}, r"lora= goes with mode='lora'"),
    ({"mode": "lora"}, r"mode='lora' adapts an emulator: say which with init="),
    ({"mode": "lora", "init": "base", "lora": {"ranks": 2}},
     r"unknown setting of lora 'ranks' \(did you mean rank\?\); valid: rank, alpha, targets"),
    ({"mode": "lora", "init": "base", "lora": {"rank": 0}},
     "rank must be an integer of at least 1, got 0"),
    ({"mode": "lora", "init": "base", "lora": {"targets": 5}},
     "targets must be a word or a list of words, got 5"),
    ({"mode": "lora", "init": "base", "lora": {"targets": ["queries"]}},
     r"no linear layer matches 'queries'; there are: .*blocks\.0\.query"),
])
def test_what_cannot_be_adapted_is_refused(
    grid: Grid, emulator: Emulator, tmp_path: Path, further: Settings, settings: Settings,
    sentence: str,
) -> None:
    emulator.save(tmp_path / "base")
    if "init" in settings:
        settings = {**settings, "init": tmp_path / "base"}
    with pytest.raises(ValueError, match=sentence):
        train(grid, **settings, **further)


def test_one_target_may_be_given_as_a_word(grid: Grid, emulator: Emulator, tmp_path: Path,
                                           further: Settings) -> None:
    base = load(emulator.save(tmp_path / "base"))
    tuned = train(grid, init=base, mode="lora", lora={"targets": "up", "unfreeze": "head.2.bias"},
                  **further)
    before = state(base)
    assert {n for n, t in state(tuned).items() if not torch.equal(t, before[n])} == {
        "blocks.0.up.weight", "blocks.1.up.weight", "head.2.bias"}


@pytest.fixture
def folder(grid: Grid, emulator: Emulator, tmp_path: Path, further: Settings) -> Path:
    """Adapters of the emulator in ``base``."""
    base = emulator.save(tmp_path / "base")
    train(grid, init=base, mode="lora", out=tmp_path / "run", **{**further, "steps": 1})
    return tmp_path / "run" / "adapter"


def test_a_changed_byte_of_adapters_is_refused(folder: Path) -> None:
    weights, = folder.glob("weights-*")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is"):
        load(folder, base=folder.parents[1] / "base")


@pytest.mark.parametrize("key", ["weights", "base", "lora", "network", "labels", "domain"])
@pytest.mark.parametrize("value", [None, 3, "text", [], {"rank": "two", "sha256": 5}])
def test_a_description_of_adapters_with_a_spoilt_entry_is_refused(
    folder: Path, key: str, value: object
) -> None:
    content = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(ValueError, match=r"names no weights file|does not hold"):
        load(folder, base=folder.parents[1] / "base")


def test_adapters_of_another_rank_than_described_are_refused(folder: Path) -> None:
    content = json.loads((folder / "adapter.json").read_text())
    content["lora"]["rank"] = 5
    (folder / "adapter.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="these adapters belong to another network"):
        load(folder, base=folder.parents[1] / "base")
