"""A token per label: each answers for its own label, and new labels begin in silence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from emulators.networks import build
from emulators.networks.tokens import LabelTokens, relabelled

PIXELS = 5150.0 * torch.exp(1e-5 * torch.arange(40, dtype=torch.float64))


@pytest.fixture
def tokens() -> LabelTokens:
    torch.manual_seed(2)
    return LabelTokens(5, 8)


@pytest.fixture
def labels() -> Tensor:
    return torch.linspace(-1.0, 1.0, 15).reshape(3, 5)


def test_a_label_moves_its_own_token_and_no_other(tokens: LabelTokens, labels: Tensor) -> None:
    moved = labels.clone()
    moved[:, 2] += 0.3
    difference = (tokens(moved) - tokens(labels)).abs().amax(dim=(0, 2))
    assert difference[2] > 0.05
    assert torch.equal(difference[[0, 1, 3, 4]], torch.zeros(4))


def test_a_token_is_the_formula_of_its_module(tokens: LabelTokens, labels: Tensor) -> None:
    p = {n: t.detach() for n, t in tokens.named_parameters()}
    for star, row in zip(tokens(labels), labels, strict=True):
        for i, x in enumerate(row):
            bent = nn.functional.gelu(x * p["slope"][i] + p["offset"][i], approximate="tanh")
            expected = p["base"][i] + x * p["linear"][i] + p["mix.weight"] @ bent
            torch.testing.assert_close(star[i], expected, rtol=1e-5, atol=1e-6)


def test_relabelled_tokens_are_those_of_the_old_labels(
    tokens: LabelTokens, labels: Tensor
) -> None:
    # new: (b, a, new); the old label 2 follows a, 3 is held at 0.5, 4 follows b at half scale
    M = torch.zeros(5, 3, dtype=torch.float64)
    M[0, 1] = M[1, 0] = M[2, 1] = 1.0
    M[4, 0] = 0.5
    c = torch.tensor([0.0, 0.0, 0.1, 0.5, 0.0], dtype=torch.float64)
    new = labels[:, :3]
    old = (new.double() @ M.T + c).float()
    expected = tokens(old).detach()
    tokens.relabel(M, c)
    torch.testing.assert_close(tokens(new), expected, rtol=0, atol=1e-6)
    louder = new.clone()
    louder[:, 2] += 10.0  # the label that nobody knew
    torch.testing.assert_close(tokens(louder), expected, rtol=0, atol=1e-6)


def test_a_silent_label_can_learn_to_speak(tokens: LabelTokens, labels: Tensor) -> None:
    tokens.relabel(torch.eye(5, 6, dtype=torch.float64), torch.zeros(5, dtype=torch.float64))
    (tokens(torch.cat([labels, labels[:, :1]], dim=1)) ** 2).sum().backward()
    for name in ("linear", "slope"):
        assert getattr(tokens, name).grad[5].abs().max() > 1e-3


def test_labels_can_be_changed_twice_and_the_network_rebuilt(labels: Tensor) -> None:
    torch.manual_seed(0)
    network = build("transformer", 2, PIXELS, dim=16, layers=2, n_period=8)
    before = network(labels[:, :2], PIXELS).detach()
    for n in (3, 8):  # more new labels than there are tokens
        old = network.embed_labels.map.shape[1]
        network.relabel(torch.eye(old, n, dtype=torch.float64),
                        torch.zeros(old, dtype=torch.float64))
    with torch.no_grad():
        network.embed_labels.linear[2:] = torch.randn(6, 16)
    again = build("transformer", 8, PIXELS, **network.config)
    again.load_state_dict(network.state_dict())
    eight = torch.zeros(3, 8)
    eight[:, :2] = labels[:, :2]
    torch.testing.assert_close(again(eight, PIXELS), before, rtol=0, atol=1e-5)
    eight[:, 7] = 1.0
    torch.testing.assert_close(again(eight, PIXELS), network(eight, PIXELS))
    assert (again(eight, PIXELS) - before).abs().max() > 1e-3


def test_a_linear_layer_takes_other_labels_exactly(labels: Tensor) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(2, 7)
    M = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    c = torch.tensor([0.3, -0.1], dtype=torch.float64)
    new = labels[:, :3]
    expected = layer((new.double() @ M.T + c).float())
    torch.testing.assert_close(relabelled(layer, M, c)(new), expected, rtol=0, atol=1e-6)


def test_the_tokens_of_the_paper_are_still_there() -> None:
    network = build("transformer", 5, PIXELS, dim=16, layers=1, heads=4, tokens=6, n_period=8)
    assert network.embed_labels(torch.zeros(3, 5)).shape == (3, 6, 16)
    assert {"embed_labels.0.weight", "embed_labels.2.weight"} <= set(network.matrices)
