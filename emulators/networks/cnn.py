"""The convolutional ablation of the paper: a decoder that unrolls labels into a spectrum.

Różański et al. 2023 (arXiv:2306.15703, section 3) found that convolutions do no better than
a perceptron: shifting along the spectrum is no symmetry of it.  A dense layer gives a short
sequence of feature vectors; each level doubles its length by linear interpolation and
convolves; the last convolution gives one flux per pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emulators.networks.pixels import FixedPixels
from emulators.networks.tokens import relabelled


class CNN(FixedPixels):
    """Scaled labels -> flux at the training pixels.

    Parameters
    ----------
    n_label : int
    wavelength : (n_pix,) tensor
        The training pixels, Angstrom.
    channels : int
        Features per place of the sequence.
    levels : int
        Doublings from the dense layer to the pixels.
    kernel : int
        Width of the convolutions, odd.
    hidden : int
        Neurons of the layer before the sequence.
    """

    #: those of the dense layers, the first, which takes the labels, too: convolutions are none
    matrices: tuple[str, ...] = ("dense.0.weight", "dense.2.weight")

    def __init__(
        self, n_label: int, wavelength: Tensor, *, channels: int = 32, levels: int = 4,
        kernel: int = 7, hidden: int = 300,
    ) -> None:
        super().__init__(wavelength)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        self.config = {"channels": channels, "levels": levels, "kernel": kernel,
                       "hidden": hidden}
        length = -(-len(wavelength) // 2**levels)
        self.dense = nn.Sequential(
            nn.Linear(n_label, hidden), nn.LeakyReLU(0.01),
            nn.Linear(hidden, channels * length), nn.Unflatten(-1, (channels, length)),
        )
        steps: list[nn.Module] = []
        for _ in range(levels):
            steps += [nn.LeakyReLU(0.01), nn.Upsample(scale_factor=2, mode="linear"),
                      nn.Conv1d(channels, channels, kernel, padding=kernel // 2)]
        self.unroll = nn.Sequential(*steps, nn.LeakyReLU(0.01),
                                    nn.Conv1d(channels, 1, kernel, padding=kernel // 2))

    def relabel(self, M: Tensor, c: Tensor) -> None:
        """Take labels that give the old ones by ``old = M @ new + c``, in place."""
        self.dense[0] = relabelled(self.dense[0], M, c)  # type: ignore[arg-type]

    def depth(self, labels: Tensor) -> Tensor:
        """Return 1 - flux, (n_spec, n_pix), at all training pixels."""
        sequence = self.unroll(self.dense(labels))
        return torch.as_tensor(sequence.squeeze(1)[:, :len(self.wavelength)])
