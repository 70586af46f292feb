"""The transformer that takes wavelength as an input token.

Różański, Ting & Jabłońska 2023 (arXiv:2306.15703), section 3: a wavelength is encoded into
one query token; the labels become tokens that serve as keys and values of every
cross-attention block; a head of 256 neurons turns the query, after the last block, into one
flux.  Nothing ties the network to a wavelength grid.

Keys and values depend on the star alone.  So per star, block and head h the query
projection is folded into the keys and the output projection into the values,

    A_h = W_q,h^T K_h^T / sqrt(d_h)      (dim, tokens)
    C_h = V_h W_o,h                      (tokens, dim)
    attention(x) = sum_h softmax(x A_h) C_h,

which is exact and leaves two dense products per pixel and block (:meth:`Transformer.fold`).

Residuals are those of ResiDual (Xie et al. 2023, arXiv:2304.14802, eqs. 5-7): a post-norm
stream ``x`` that feeds the blocks and an un-normalised stream ``d`` that collects their
outputs, added at the end; ``residual="prenorm"`` is the usual alternative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emulators.networks.gelu import GELU, gelu
from emulators.networks.tokens import LabelTokens, relabelled

Folded = list[tuple[Tensor, Tensor]]


class WavelengthEncoding(nn.Module):
    """Sinusoids of ln(wavelength) at log-spaced periods.

    The phases are reduced to one turn in float64: at a period of a few pixels
    (1e-5 in ln(wavelength)) float32 phases would be off by a tenth of a radian.

    Parameters
    ----------
    reference : float
        Wavelength of phase zero, Angstrom.
    periods : (float, float)
        Shortest and longest period in ln(wavelength): of the order of the pixels, and of
        the width of the window.
    n_period : int
    """

    periods: Tensor

    def __init__(self, reference: float, periods: Sequence[float], n_period: int) -> None:
        super().__init__()
        shortest, longest = periods
        if not 0 < shortest < longest:
            raise ValueError(f"periods must be 0 < shortest < longest, got {periods}")
        self.log_reference = math.log(reference)
        table = torch.logspace(math.log10(shortest), math.log10(longest), n_period,
                               dtype=torch.float64)
        self.register_buffer("periods", table, persistent=False)

    def forward(self, wavelength: Tensor, dtype: torch.dtype) -> Tensor:
        """Return sines and cosines, (..., 2 n_period) in `dtype`, of wavelength (...) float64."""
        if wavelength.dtype != torch.float64:
            raise TypeError(f"wavelengths must be float64, got {wavelength.dtype}")
        turns = (torch.log(wavelength) - self.log_reference).unsqueeze(-1) / self.periods
        # Whole turns do not change a sinusoid, and their number has no derivative.
        angle = 2.0 * math.pi * (turns - turns.detach().round())
        if dtype != torch.float64:
            angle = angle.float()  # reduced to one turn, it loses only 1e-7
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1).to(dtype)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last axis, with a learnt scale.

    Plain operations rather than `torch.nn.RMSNorm`, whose forward-mode derivative goes
    through a slow decomposition and whose epsilon depends on the precision.
    """

    epsilon = 1e-6

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return x / rms(x) * weight, of the shape of x."""
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.epsilon) * self.weight


class Block(nn.Module):
    """Cross-attention onto the label tokens, then a feed-forward network.

    Both return the increment that the caller adds to its residual streams.
    """

    def __init__(self, dim: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.attention_norm = RMSNorm(dim)
        self.up = nn.Linear(dim, feedforward * dim)
        self.down = nn.Linear(feedforward * dim, dim)
        self.feedforward_norm = RMSNorm(dim)

    def fold(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return A (n_spec, dim, heads*tokens), C (n_spec, heads*tokens, dim) of the tokens."""
        width = tokens.shape[-1] // self.heads
        split = (self.heads, width)
        keys = torch.unflatten(self.key(tokens), -1, split)               # (b, t, h, e)
        values = torch.unflatten(self.value(tokens), -1, split)
        query = torch.unflatten(self.query.weight, 0, split)              # (h, e, d)
        output = torch.unflatten(self.output.weight, 1, split)            # (d, h, e)
        A = torch.einsum("hed,bthe->bdht", query, keys) / math.sqrt(width)
        C = torch.einsum("bthe,dhe->bhtd", values, output)
        return A.flatten(2), C.flatten(1, 2)

    def attend(self, x: Tensor, A: Tensor, C: Tensor) -> Tensor:
        """Return the attention increment of x (n_spec, n_pix, dim)."""
        scores = torch.unflatten(x @ A, -1, (self.heads, -1))
        return torch.softmax(scores, dim=-1).flatten(-2) @ C

    def feedforward(self, x: Tensor) -> Tensor:
        """Return the feed-forward increment of x (n_spec, n_pix, dim)."""
        step: Tensor = self.down(gelu(self.up(x)))
        return step


class Transformer(nn.Module):
    """Scaled labels and wavelength -> flux.

    Parameters
    ----------
    n_label : int
    wavelength : (n_pix,) tensor
        Training pixels, Angstrom; they only set the default periods of the encoding.
    dim, layers, heads, feedforward, head : int
        Width of a token, number of blocks, attention heads, widening of the feed-forward
        networks, neurons of the head.
    tokens : int, optional
        Number of label tokens that a perceptron makes of all labels, as in the paper; by
        default there is one per label (`emulators.networks.tokens`).
    hidden : int, optional
        Neurons of that perceptron; four times `dim` by default.
    periods : (float, float), optional
        Shortest and longest period of the encoding in ln(wavelength); three pixels and
        twice the width of the window by default.
    n_period : int
    reference : float, optional
        Wavelength of phase zero, Angstrom; the middle of the training pixels by default.
    residual : {"residual", "prenorm"}
        ResiDual, or plain pre-norm.
    output : {"depth", "log_depth"}
        What the head gives: 1 - flux, or -log10(flux).
    label_tokens, label_inputs : int, optional
        Of a network that met other labels in its life; see `LabelTokens`.
    """

    #: a network of this kind can be trained on any subset of pixels
    all_pixels = False
    closed_form = False
    #: in bfloat16 a label is known to 0.4 % of its range, which shows in the flux
    float32_part = "embed_labels."

    def __init__(
        self, n_label: int, wavelength: Tensor, *, dim: int = 64, layers: int = 6,
        heads: int = 2, tokens: int | None = None, hidden: int | None = None,
        feedforward: int = 4, head: int = 256, periods: Sequence[float] | None = None,
        n_period: int = 64, reference: float | None = None, residual: str = "residual",
        output: str = "depth", label_tokens: int | None = None,
        label_inputs: int | None = None,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got {dim} and {heads}")
        if residual not in ("residual", "prenorm"):
            raise ValueError(f"unknown residual {residual!r}; valid: residual, prenorm")
        if output not in ("depth", "log_depth"):
            raise ValueError(f"unknown output {output!r}; valid: depth, log_depth")
        self.residual, self.output = residual, output
        log_wavelength = torch.log(wavelength.double())
        if periods is None:
            window = float(log_wavelength[-1] - log_wavelength[0])
            periods = (3.0 * window / (len(wavelength) - 1), 2.0 * window)
        if reference is None:
            reference = float(torch.exp(log_wavelength.mean()))
        self.config = {
            "dim": dim, "layers": layers, "heads": heads, "tokens": tokens,
            "feedforward": feedforward, "head": head, "periods": list(map(float, periods)),
            "n_period": n_period, "reference": reference, "residual": residual,
            "label_tokens": label_tokens, "label_inputs": label_inputs,
        }
        # Younger than some runs, which must find their network unchanged to go on.
        younger = {"hidden": (hidden, None), "output": (output, "depth")}
        self.config |= {n: value for n, (value, usual) in younger.items() if value != usual}
        self.encoding = WavelengthEncoding(reference, periods, n_period)
        self.embed_wavelength = nn.Linear(2 * n_period, dim)
        self.embed_labels: nn.Module
        if tokens is None:
            self.embed_labels = LabelTokens(n_label, dim, tokens=label_tokens,
                                            inputs=label_inputs)
        else:
            hidden = hidden or 4 * dim
            self.embed_labels = nn.Sequential(
                nn.Linear(n_label, hidden), GELU(),
                nn.Linear(hidden, tokens * dim), nn.Unflatten(-1, (tokens, dim)), RMSNorm(dim),
            )
        self.query_norm = RMSNorm(dim) if residual == "residual" else nn.Identity()
        self.blocks = nn.ModuleList(Block(dim, heads, feedforward) for _ in range(layers))
        self.final_norm = RMSNorm(dim)
        self.head = nn.Sequential(
            nn.Linear(dim, head), GELU(), nn.Linear(head, 1)
        )

    @property
    def matrices(self) -> list[str]:
        """Names of the weights of the blocks and, with `tokens`, of what makes these of labels."""
        return [n for n, p in self.named_parameters() if p.ndim == 2 and
                n.startswith(("blocks.", "embed_labels.0.", "embed_labels.2."))]

    def relabel(self, M: Tensor, c: Tensor) -> None:
        """Take labels that give the old ones by ``old = M @ new + c``, in place."""
        if isinstance(self.embed_labels, LabelTokens):
            self.embed_labels.relabel(M, c)
            self.config["label_tokens"] = len(self.embed_labels.base)
            self.config["label_inputs"] = len(self.embed_labels.linear)
        else:
            self.embed_labels[0] = relabelled(self.embed_labels[0], M, c)  # type: ignore

    def fold(self, labels: Tensor) -> Folded:
        """Return what each block needs to know of stars with scaled labels (n_spec, n_label)."""
        tokens = self.embed_labels(labels).to(self.embed_wavelength.weight.dtype)
        return [block.fold(tokens) for block in self.blocks]  # type: ignore[operator]

    def query(self, wavelength: Tensor) -> Tensor:
        """Return the query tokens (..., n_pix, dim) of wavelengths (..., n_pix) float64."""
        encoded = self.encoding(wavelength, self.embed_wavelength.weight.dtype)
        return torch.as_tensor(self.embed_wavelength(encoded))

    def spectrum(self, query: Tensor, folded: Folded) -> Tensor:
        """Return flux (n_spec, n_pix) from query tokens and folded labels."""
        if self.residual == "residual":
            x = self._residual_stream(query, folded)
        else:
            x = self._prenorm_stream(query, folded)
        # Most pixels are continuum: the network predicts what the lines take away; near 1,
        # bfloat16 could not tell fluxes apart by less than 0.004.
        depth: Tensor = self.head(x).squeeze(-1)
        return self.flux_of(depth.float() if depth.dtype == torch.bfloat16 else depth)

    def flux_of(self, depth: Tensor) -> Tensor:
        """Return the flux that the head means by a number."""
        return 1.0 - depth if self.output == "depth" else 10.0 ** -depth

    def _residual_stream(self, query: Tensor, folded: Folded) -> Tensor:
        x, d = self.query_norm(query), query
        for block, (A, C) in zip(self.blocks, folded, strict=True):
            step = block.attend(x, A, C)                          # type: ignore[operator]
            d = d + step
            x = block.attention_norm(x + step)                    # type: ignore[operator]
            step = block.feedforward(x)                           # type: ignore[operator]
            d = d + step
            x = block.feedforward_norm(x + step)                  # type: ignore[operator]
        return torch.as_tensor(x + self.final_norm(d))

    def _prenorm_stream(self, query: Tensor, folded: Folded) -> Tensor:
        x = query
        for block, (A, C) in zip(self.blocks, folded, strict=True):
            x = x + block.attend(block.attention_norm(x), A, C)   # type: ignore[operator]
            x = x + block.feedforward(block.feedforward_norm(x))  # type: ignore[operator]
        return torch.as_tensor(self.final_norm(x))

    def forward(self, labels: Tensor, wavelength: Tensor) -> Tensor:
        """Return flux (n_spec, n_pix) of scaled labels (n_spec, n_label).

        `wavelength` is float64 Angstrom, (n_pix,) for all stars or (n_spec, n_pix).
        """
        return self.spectrum(self.query(wavelength), self.fold(labels))

    def evaluate(self, labels: Tensor, wavelength: Tensor, *, chunk: int) -> Tensor:
        """Return what :meth:`forward` returns, at most about `chunk` fluxes at a time.

        `wavelength` is (n_pix,).  The labels are folded once; the activations of a chunk
        fit the cache, and grow neither with the number of pixels nor with that of stars.
        """
        groups = torch.split(labels, max(1, chunk // 64))
        return torch.cat([self._evaluate_group(g, wavelength, chunk) for g in groups])

    def _evaluate_group(self, labels: Tensor, wavelength: Tensor, chunk: int) -> Tensor:
        folded = self.fold(labels)
        pixels = chunk // max(1, len(labels))
        parts = [self.spectrum(self.query(w), folded) for w in torch.split(wavelength, pixels)]
        return torch.cat(parts, dim=-1)
