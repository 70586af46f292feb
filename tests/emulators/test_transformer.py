"""The transformer: exact folding, exact phases, exact gradients, bounded memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from emulators.networks.transformer import Block, Transformer, WavelengthEncoding

PIXELS = 5150.0 * torch.exp(1e-5 * torch.arange(400, dtype=torch.float64))
RESIDUALS = ["residual", "prenorm"]


def network(residual: str, **options: int | str) -> Transformer:
    torch.manual_seed(3)
    shape = {"dim": 24, "layers": 3, "heads": 4, "tokens": 5, "n_period": 8, "head": 16}
    model = Transformer(6, PIXELS, residual=residual, **{**shape, **options}).double()
    with torch.no_grad():  # gains of 1 would hide a norm at the wrong place
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def labels() -> Tensor:
    return torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def textbook_attention(block: Block, x: Tensor, tokens: Tensor) -> Tensor:
    """Vaswani et al. 2017, section 3.2: per head softmax(QK^T / sqrt(d)) V, joined, projected."""
    width = x.shape[-1] // block.heads
    Q, K, V = x @ block.query.weight.T, tokens @ block.key.weight.T, tokens @ block.value.weight.T
    heads = []
    for h in range(block.heads):
        part = slice(h * width, (h + 1) * width)
        weights = torch.softmax(Q[..., part] @ K[..., part].mT / math.sqrt(width), dim=-1)
        heads.append(weights @ V[..., part])
    return torch.cat(heads, dim=-1) @ block.output.weight.T


def textbook_feedforward(block: Block, x: Tensor) -> Tensor:
    return F.gelu(x @ block.up.weight.T + block.up.bias,
                  approximate="tanh") @ block.down.weight.T + block.down.bias


def textbook_flux(model: Transformer, labels: Tensor, wavelength: Tensor) -> Tensor:
    """The whole network, unfolded, with the residual streams written out."""
    tokens = model.embed_labels(labels)
    turns = (wavelength.log() - math.log(model.config["reference"]))[:, None]
    angle = 2 * math.pi * turns / model.encoding.periods
    query = model.embed_wavelength(torch.cat([angle.sin(), angle.cos()], dim=-1))
    query = query.expand(len(labels), -1, -1)
    if model.residual == "prenorm":
        x = query
        for block in model.blocks:
            x = x + textbook_attention(block, block.attention_norm(x), tokens)
            x = x + textbook_feedforward(block, block.feedforward_norm(x))
        return 1.0 - model.head(model.final_norm(x))[..., 0]
    # Xie et al. 2023: x_{k+1} = LN(x_k + f_k(x_k)), d_{k+1} = d_k + f_k(x_k), y = x_N + LN(d_N)
    x, increments = model.query_norm(query), [query]
    for block in model.blocks:
        increments.append(textbook_attention(block, x, tokens))
        x = block.attention_norm(x + increments[-1])
        increments.append(textbook_feedforward(block, x))
        x = block.feedforward_norm(x + increments[-1])
    return 1.0 - model.head(x + model.final_norm(torch.stack(increments).sum(dim=0)))[..., 0]


def test_folded_attention_equals_plain_attention() -> None:
    torch.manual_seed(0)
    block = Block(24, 4, 2).double()
    x, tokens = torch.randn(2, 50, 24).double(), torch.randn(2, 5, 24).double()
    folded = block.attend(x, *block.fold(tokens))
    plain = textbook_attention(block, x, tokens)
    torch.testing.assert_close(folded, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_the_folded_network_equals_its_textbook_definition(
    residual: str, labels: Tensor
) -> None:
    model = network(residual)
    flux = model(labels, PIXELS)
    assert flux.std() > 1e-3
    torch.testing.assert_close(flux, textbook_flux(model, labels, PIXELS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_the_two_residuals_differ(residual: str, labels: Tensor) -> None:
    other = next(r for r in RESIDUALS if r != residual)
    assert not torch.allclose(network(residual)(labels, PIXELS), network(other)(labels, PIXELS))


def test_a_head_may_give_the_logarithm_of_the_flux(labels: Tensor) -> None:
    depth = 1.0 - network("prenorm")(labels, PIXELS)
    flux = network("prenorm", output="log_depth")(labels, PIXELS)
    torch.testing.assert_close(flux, 10.0**-depth, rtol=1e-12, atol=0)


def test_options_that_came_later_are_told_only_where_they_are_used() -> None:
    assert not {"hidden", "output"} & set(network("prenorm").config)
    config = network("prenorm", hidden=7, output="log_depth").config
    assert (config["hidden"], config["output"]) == (7, "log_depth")
    assert Transformer(6, PIXELS, **config).embed_labels[0].out_features == 7


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("chunk", [1, 200, 10**6])
def test_evaluation_in_chunks_equals_one_pass(
    residual: str, chunk: int, labels: Tensor
) -> None:
    model = network(residual)
    in_chunks = model.evaluate(labels, PIXELS, chunk=chunk)
    torch.testing.assert_close(in_chunks, model(labels, PIXELS), rtol=0, atol=1e-12)


def test_each_star_may_have_its_own_wavelengths(labels: Tensor) -> None:
    model = network("residual")
    own = torch.stack([PIXELS[:50], PIXELS[100:150], PIXELS[20:70]])
    one_by_one = torch.cat([
        model(star[None], at) for star, at in zip(labels, own, strict=True)
    ])
    torch.testing.assert_close(model(labels, own), one_by_one, rtol=0, atol=1e-12)


def test_the_flux_at_a_wavelength_ignores_the_other_pixels(labels: Tensor) -> None:
    model = network("residual")
    some = torch.tensor([300, 5, 77])
    alone = model(labels, PIXELS[some])
    torch.testing.assert_close(alone, model(labels, PIXELS)[:, some], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_phases_are_exact_at_a_period_of_three_pixels(dtype: torch.dtype) -> None:
    encoding = WavelengthEncoding(5225.0, (3e-5, 0.06), 12)
    wavelength = torch.linspace(5150.0, 5300.0, 5001, dtype=torch.float64)
    turns = np.log(wavelength.numpy().astype(np.longdouble) / np.longdouble(5225.0))
    angle = 2 * np.arccos(np.longdouble(-1)) * turns[:, None] / encoding.periods.numpy()
    exact = np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float64)
    encoded = encoding(wavelength, dtype).double().numpy()
    np.testing.assert_allclose(encoded, exact, rtol=0, atol=1e-6)


def test_periods_run_from_three_pixels_to_twice_the_window_by_default() -> None:
    periods = network("residual").encoding.periods
    ratios = periods[1:] / periods[:-1]
    assert periods[0] == pytest.approx(3e-5)
    assert periods[-1] == pytest.approx(2 * 399e-5)
    torch.testing.assert_close(ratios, ratios[:1].expand(7))


def test_float32_wavelengths_are_refused(labels: Tensor) -> None:
    with pytest.raises(TypeError, match=r"must be float64, got torch\.float32"):
        network("residual")(labels, PIXELS.float())


# torch itself still scripts some of its forward-mode rules
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("residual", RESIDUALS)
def test_gradients_agree_with_finite_differences(residual: str, labels: Tensor) -> None:
    model = network(residual)
    at = PIXELS[::97].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: model.evaluate(x, at.detach(), chunk=64), labels.clone().requires_grad_()
    )
    _, slope = torch.func.jvp(
        lambda w: model(labels, w), (at.detach(),), (torch.ones_like(at),)
    )
    step = 1e-5  # of a pixel of 0.05 Å
    up, down = (model(labels, at.detach() + s) for s in (step, -step))
    difference = (up - down) / (2 * step)
    torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-5 * slope.abs().max().item())
    (backward,) = torch.autograd.grad(model(labels, at).sum(), at)
    torch.testing.assert_close(backward, slope.sum(dim=0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("options", "sentence"), [
    ({"dim": 10, "heads": 4}, "dim must be a multiple of heads, got 10 and 4"),
    ({"residual": "postnorm"}, "unknown residual 'postnorm'; valid: residual, prenorm"),
    ({"output": "lines"}, "unknown output 'lines'; valid: depth, log_depth"),
    ({"periods": (0.1, 0.01)}, "periods must be 0 < shortest < longest"),
])
def test_impossible_options_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Transformer(6, PIXELS, **options)


A_MILLION_PIXELS = """
import resource
import torch
from emulators.networks.transformer import Transformer

torch.set_num_threads(1)
wavelength = torch.linspace(5150, 5300, 1_000_000, dtype=torch.float64)
model = Transformer(3, wavelength, dim=8, layers=1, heads=2, tokens=2, n_period=4, head=8)
with torch.inference_mode():
    star = torch.zeros(1, 3)
    model.evaluate(star, wavelength[:5000], chunk=4096)
    used = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status")
                if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000,) * 2)
    try:
        model(star, wavelength)
    except RuntimeError as error:
        print("at once:", "allocate" in str(error))
    flux = model.evaluate(star, wavelength, chunk=4096)
print("in chunks:", tuple(flux.shape), bool(flux.isfinite().all()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address-space limits are those of Linux")
def test_a_million_pixels_are_evaluated_in_bounded_memory() -> None:
    # The answer takes 4 MB; the query tokens alone of all pixels would take 64 MB.
    answer = subprocess.run([sys.executable, "-c", A_MILLION_PIXELS], capture_output=True,
                            text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == [
        "at once: True", "in chunks: (1, 1000000) True",
    ]
