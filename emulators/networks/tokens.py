"""Labels -> tokens, the keys and values of the transformer's attention.

The paper (arXiv:2306.15703, section 3) lets a perceptron turn all labels into a handful of
tokens.  Every token then depends on every label, and a line of magnesium can only learn from
many spectra that it does not care for europium.  With a token per label,

    token_i = b_i + x_i l_i + W gelu(x_i u_i + v_i)

(x_i the scaled label; b, l, u, v learnt vectors of each, W a matrix they share), attention
picks the labels that matter for a wavelength, and what they do together is left to the blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LabelTokens(nn.Module):
    """Scaled labels (n_spec, n_label) -> tokens (n_spec, n_token, dim), one per label.

    Parameters
    ----------
    n_label : int
    dim : int
    tokens, inputs : int, optional
        Other numbers than that of the labels, for a network that met other labels in its
        life (:meth:`relabel`): the inputs are an affine map of the labels,
        ``inputs = map @ labels + shift``, and input i feeds token i modulo their number.
    """

    map: Tensor
    shift: Tensor

    def __init__(
        self, n_label: int, dim: int, *, tokens: int | None = None, inputs: int | None = None
    ) -> None:
        super().__init__()
        n_input = n_label if inputs is None else inputs
        n_token = n_input if tokens is None else tokens
        self.base = nn.Parameter(0.5 * torch.randn(n_token, dim))
        self.linear = nn.Parameter(0.5 * torch.randn(n_input, dim))
        self.slope = nn.Parameter(torch.randn(n_input, dim))
        self.offset = nn.Parameter(torch.randn(n_input, dim))
        self.mix = nn.Linear(dim, dim, bias=False)
        self.register_buffer("map", torch.eye(n_input, n_label, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(n_input, dtype=torch.float64))

    def forward(self, labels: Tensor) -> Tensor:
        """Return the tokens."""
        inputs = labels @ self.map.to(labels.dtype).T + self.shift.to(labels.dtype)
        x = inputs.unsqueeze(-1)
        bent = F.gelu(x * self.slope + self.offset, approximate="tanh")
        given = x * self.linear + self.mix(bent)
        n_token = len(self.base)
        tokens: Tensor = self.base + given[:, :n_token]
        for first in range(n_token, given.shape[1], n_token):
            later = given[:, first:first + n_token]
            count = later.shape[1]
            tokens = torch.cat([tokens[:, :count] + later, tokens[:, count:]], dim=1)
        return tokens

    def relabel(self, M: Tensor, c: Tensor) -> None:
        """Take labels that give the old ones by ``old = M @ new + c``, (n_old, n_new) and (n_old,).

        A new label that no old one depends on becomes an input without effect, ready to
        learn one.
        """
        unheard = torch.nonzero((M == 0).all(dim=0)).flatten().tolist()
        extra = torch.zeros(len(unheard), M.shape[1], dtype=torch.float64)
        extra[range(len(unheard)), unheard] = 1.0
        self.shift = torch.cat([self.map @ c + self.shift, torch.zeros(len(unheard)).double()])
        self.map = torch.cat([self.map @ M, extra])
        silent = self.linear.new_zeros(len(unheard), self.linear.shape[1])
        for name in ("linear", "slope", "offset"):
            old = getattr(self, name).detach()
            setattr(self, name, nn.Parameter(torch.cat([old, silent])))


def relabelled(layer: nn.Linear, M: Tensor, c: Tensor) -> nn.Linear:
    """Return the linear layer that does with new labels what one did with the old.

    With ``old = M @ new + c`` its weight is W M, its bias b + W c: labels that no old one
    depends on have weight zero.
    """
    new = nn.Linear(M.shape[1], layer.out_features)
    with torch.no_grad():
        new.weight.copy_(layer.weight.double() @ M)
        new.bias.copy_(layer.bias.double() + layer.weight.double() @ c)
    return new
