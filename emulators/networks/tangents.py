"""The transformer's derivatives along a few directions of its labels.

Forward-mode differentiation written out: all directions share the forward pass, the slopes
of its activations and the folded attention, so that one more direction costs little more
than its matrix products; `torch.func.jvp` under `vmap` knows nothing of what they share.  With x
and its tangent dx, the rules are

    softmax(s) = p      ->  p (ds - sum(p ds))            over the tokens of a head
    GELU(u)             ->  GELU'(u) du
    x r,  r = rms(x)^-1 ->  (dx - x mean(x dx) r^2) r

and those of products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from emulators.networks.gelu import gelu_and_slope
from emulators.networks.transformer import Block, Folded, RMSNorm, Transformer


class Dual(NamedTuple):
    """A value (n_spec, n_pix, dim) and its tangents (n_spec, n_direction, n_pix, dim)."""

    value: Tensor
    tangents: Tensor

    def add_(self, other: Dual) -> Dual:
        """Add another in place: new memory for each sum would take as long as the sum."""
        return Dual(self.value.add_(other.value), self.tangents.add_(other.tangents))


def flux_and_tangents(
    network: Transformer, labels: Tensor, directions: Tensor, wavelength: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return the flux of stars and its derivatives along directions of their labels.

    Parameters
    ----------
    network : Transformer
    labels : (n_spec, n_label) tensor
        Scaled.
    directions : (n_spec, n_direction, n_label) tensor
    wavelength : (n_pix,) float64 tensor
    chunk : int
        Tangents that are worked on at a time.

    Returns
    -------
    flux : (n_spec, n_pix) tensor
    tangents : (n_spec, n_direction, n_pix) tensor
        No gradients are kept.
    """
    with torch.no_grad():
        parts = []
        pixels = max(1, chunk // max(1, directions.shape[1]))
        for row, ways in zip(labels.unsqueeze(1), directions, strict=True):
            folded, moved = _fold(network, row, ways)
            parts.append([_spectrum(network, network.query(w), folded, moved)
                          for w in torch.split(wavelength, pixels)])
        return (torch.cat([torch.cat([p[0] for p in star], -1) for star in parts]),
                torch.cat([torch.cat([p[1] for p in star], -1) for star in parts]))


def _fold(network: Transformer, labels: Tensor, ways: Tensor) -> tuple[Folded, Folded]:
    """Return what the blocks know of one star (1, n_label), and its tangents along each way."""
    tokens = _moved(network.embed_labels, labels.expand_as(ways), ways)
    tokens = tokens.to(network.embed_wavelength.weight.dtype)
    # What a block makes of tokens is linear in them.
    return network.fold(labels), [block.fold(tokens) for block in network.blocks]  # type: ignore


def _moved(function: Callable[[Tensor], Tensor], at: Tensor, ways: Tensor) -> Tensor:
    """Return the derivatives of a function of rows, each at its row and along its way.

    Two derivatives in reverse make one in forward mode, which in torch costs a second to import,
    as does anything but the gradient of a number.
    """
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        value = function(at)
        weights = torch.zeros_like(value, requires_grad=True)
        slope, = torch.autograd.grad((value * weights).sum(), at, create_graph=True)
        return torch.autograd.grad((slope * ways).sum(), weights)[0]


def _spectrum(
    network: Transformer, query: Tensor, folded: Folded, moved: Folded
) -> tuple[Tensor, Tensor]:
    """Return flux (1, n_pix) and tangents (1, n_direction, n_pix) of one star."""
    x = Dual(query.unsqueeze(0), query.new_zeros(1, len(moved[0][0]), *query.shape))
    blocks = list(zip(network.blocks, folded, moved, strict=True))
    if network.residual == "residual":
        d, x = x, Dual(network.query_norm(x.value), torch.zeros_like(x.tangents))
        for block, star, ways in blocks:
            step = _attend(block, x, star, ways)                          # type: ignore[arg-type]
            d.add_(step)
            x = _norm(block.attention_norm, step.add_(x))                 # type: ignore[arg-type]
            step = _feedforward(block, x)                                 # type: ignore[arg-type]
            d.add_(step)
            x = _norm(block.feedforward_norm, step.add_(x))               # type: ignore[arg-type]
        x = _norm(network.final_norm, d).add_(x)
    else:
        for block, star, ways in blocks:
            inner = _norm(block.attention_norm, x)                        # type: ignore[arg-type]
            x.add_(_attend(block, inner, star, ways))                     # type: ignore[arg-type]
            inner = _norm(block.feedforward_norm, x)                      # type: ignore[arg-type]
            x.add_(_feedforward(block, inner))                            # type: ignore[arg-type]
        x = _norm(network.final_norm, x)
    depth, slope = _perceptron(network.head[0], network.head[2], x)       # type: ignore[arg-type]
    if depth.dtype == torch.bfloat16:  # as `Transformer.spectrum` does
        depth, slope = depth.float(), slope.float()
    flux = network.flux_of(depth.squeeze(-1))
    rate = 1.0 if network.output == "depth" else math.log(10.0) * flux  # - d flux / d depth
    return flux, -slope.squeeze(-1) * rate


def _attend(
    block: Block, x: Dual, star: tuple[Tensor, Tensor], ways: tuple[Tensor, Tensor]
) -> Dual:
    """Return the attention increment; all tangents of a product with A or C are one product."""
    (A, C), (dA, dC) = star, ways
    heads = (block.heads, -1)
    p = torch.softmax(torch.unflatten(x.value @ A, -1, heads), dim=-1)
    ds = (x.value @ dA).baddbmm_(x.tangents[0], A.expand_as(dA))
    ds = torch.unflatten(ds, -1, heads).mul_(p)
    ds.addcmul_(p, ds.sum(-1, keepdim=True), value=-1.0)
    p, ds = p.flatten(-2), ds.flatten(-2)
    return Dual(p @ C, (p @ dC).baddbmm_(ds, C.expand_as(dC)).unsqueeze(0))


def _feedforward(block: Block, x: Dual) -> Dual:
    return Dual(*_perceptron(block.up, block.down, x))


def _perceptron(up: torch.nn.Linear, down: torch.nn.Linear, x: Dual) -> tuple[Tensor, Tensor]:
    """Return value and tangents of down(GELU(up(x)))."""
    bent, slope = gelu_and_slope(up(x.value))
    du = F.linear(x.tangents, up.weight)
    return down(bent), F.linear(du.mul_(slope.unsqueeze(1)), down.weight)


def _norm(layer: RMSNorm, x: Dual) -> Dual:
    v = x.value
    r = torch.rsqrt((v * v).mean(-1, keepdim=True) + layer.epsilon)
    along = (v.unsqueeze(1) * x.tangents).mean(-1, keepdim=True).mul_((r * r).unsqueeze(1))
    dv = torch.addcmul(x.tangents, v.unsqueeze(1), along, value=-1.0)
    return Dual(v * r * layer.weight, dv.mul_((r * layer.weight).unsqueeze(1)))
