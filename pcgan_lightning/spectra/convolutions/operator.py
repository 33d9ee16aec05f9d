"""The linear map that a convolution performs on images of one size: its geometry, itself and its adjoint."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pcgan_lightning.spectra.matrices import TRANSPOSED_CONVOLUTIONS, is_convolution

CONVOLVE: tuple[Callable[..., Tensor], ...] = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
CONVOLVE_TRANSPOSED: tuple[Callable[..., Tensor], ...] = (
    nn.functional.conv_transpose1d,
    nn.functional.conv_transpose2d,
    nn.functional.conv_transpose3d,
)


@dataclass(frozen=True)
class ConvolutionOperator:
    r"""The linear map of a convolution without its bias, from images of one size; the weight is given when it is used.

    .. math:: y_i = \sum_a w_a \, \bar x_{s i + d a - p}, \quad i = 0, \dots, m - 1

    in each dimension, with stride s, dilation d, and :math:`\bar x` the image of n pixels, padded by p. A transposed
    convolution is the adjoint of such a map, and has the same singular values; here it stands as that map, whose
    images are the layer's outputs. Its weight (in, out / groups, ...) is the weight of that map as it is.

    Args:
        image_size: n, for each dimension.
        output_size: m.
        kernel_size: the number of taps a.
        stride: s.
        dilation: d.
        padding: p, the pixels added before an image; as many stand behind it as the outputs need.
        padding_mode: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``.
        groups: of channels; as many blocks on the diagonal.
    """

    image_size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    padding_mode: str = "zeros"
    groups: int = 1

    @classmethod
    def of_layer(cls, layer: nn.Module, input_size: Sequence[int]) -> "ConvolutionOperator":
        """Return the operator of a Conv1d-3d or ConvTranspose1d-3d on inputs of this spatial size.

        Raises:
            ValueError: for a layer that is no convolution, or a size that it cannot take.
        """
        if not is_convolution(layer):
            raise ValueError(f"argument `layer` must be a convolution, got {type(layer).__name__}")
        settings: Any = layer
        kernel, stride, dilation, sides = settings.kernel_size, settings.stride, settings.dilation, _sides(settings)
        size, mode = tuple(int(n) for n in input_size), settings.padding_mode
        refused = ValueError(f"argument `input_size` must be one that {layer} can take, got {size}")
        if len(size) != len(kernel) or min(size) < 1:
            raise refused
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        if isinstance(layer, TRANSPOSED_CONVOLUTIONS):
            more = settings.output_padding
            room = [o - p - q + span for o, (p, q), span in zip(more, sides, spans, strict=True)]
            image, output = tuple((m - 1) * s + r for m, s, r in zip(size, stride, room, strict=True)), size
        else:
            room = [n + p + q - span for n, (p, q), span in zip(size, sides, spans, strict=True)]
            image, output = size, tuple(r // s + 1 for r, s in zip(room, stride, strict=True))
        limits = {"circular": image, "reflect": tuple(n - 1 for n in image)}.get(mode, (math.inf,) * len(image))
        if min(image + output) < 1 or any(max(pair) > limit for pair, limit in zip(sides, limits, strict=True)):
            raise refused
        before = tuple(p for p, _ in sides)
        return cls(image, output, kernel, stride, dilation, before, mode, settings.groups)

    @property
    def dimensions(self) -> int:
        """How many spatial dimensions there are."""
        return len(self.image_size)

    @property
    def is_circular(self) -> bool:
        """Whether the images lie on a torus, whole strides long, so that the Fourier transform splits the operator."""
        whole = all(m * s == n for n, m, s in zip(self.image_size, self.output_size, self.stride, strict=True))
        return whole and self.padding_mode == "circular"

    def circular(self) -> "ConvolutionOperator":
        """Return the circular convolution of the same kernel, on images rounded up to whole strides."""
        size = tuple(-(-n // s) for n, s in zip(self.image_size, self.stride, strict=True))
        return self.on_torus(size, self.stride)

    def on_torus(self, output_size: tuple[int, ...], stride: tuple[int, ...]) -> "ConvolutionOperator":
        """Return the circular convolution of the same kernel with this stride, on a torus of so many strides."""
        image = tuple(m * s for m, s in zip(output_size, stride, strict=True))
        # Where the kernel lies on the torus makes no difference to the spectrum, so that it needs no padding.
        none = (0,) * len(image)
        return replace(
            self, image_size=image, output_size=output_size, stride=stride, padding=none, padding_mode="circular"
        )

    def enclosing(self) -> tuple["ConvolutionOperator", float]:
        r"""Return a circular convolution and a factor whose product of norms is at least this operator's norm.

        An operator that pads with zeros is cut out of a circular one on a larger torus, whose wrapped-around taps meet
        zeros only. One that repeats pixels is such an operator behind its padding, whose norm is the root of how often
        a pixel is repeated. A circular one of another number of outputs repeats or leaves out rows.
        """
        sizes, strides, factor = [], [], 1.0
        ends = zip(self.image_size, self.output_size, self.stride, self.padding, self._lengths(), strict=True)
        for n, m, s, p, length in ends:
            if self.padding_mode == "circular":
                common = math.gcd(n, s)
                sizes.append(n // common)
                strides.append(common)
                factor *= math.sqrt(-(-m // sizes[-1]))
                continue
            room = max(n + p, length - p) if self.padding_mode == "zeros" else length
            sizes.append(max(-(-room // s), m))
            strides.append(s)
            if self.padding_mode != "zeros":
                factor *= math.sqrt(int(_places(n, p, length, self.padding_mode).bincount().max()))
        return self.on_torus(tuple(sizes), tuple(strides)), factor

    def apply(self, weight: Tensor, images: Tensor) -> Tensor:
        """Return the outputs ``[batch, out, *output_size]`` of images ``[batch, in, *image_size]``."""
        convolve = CONVOLVE[self.dimensions - 1]
        return convolve(self._pad(images), weight, None, self.stride, 0, self.dilation, self.groups)

    def adjoint(self, weight: Tensor, outputs: Tensor) -> Tensor:
        """Return the images ``[batch, in, *image_size]`` to which the adjoint takes outputs."""
        convolve = CONVOLVE_TRANSPOSED[self.dimensions - 1]
        padded = convolve(outputs, weight, None, self.stride, 0, 0, self.groups, self.dilation)
        if self.padding_mode == "zeros":
            return nn.functional.pad(padded, [-side for side in self._zeros()])
        for dimension, (n, places) in enumerate(self._all_places(padded.device), start=2):
            shape = (*padded.shape[:dimension], n, *padded.shape[dimension + 1 :])
            padded = padded.new_zeros(shape).index_add(dimension, places, padded)
        return padded

    def dense(self, weight: Tensor) -> Tensor:
        """Return the matrix ``[prod(out, *output_size), prod(in, *image_size)]``, from units on its smaller side."""
        channels = weight.shape[1] * self.groups
        rows, cols = self.shape(weight)
        units = torch.eye(min(rows, cols), dtype=weight.dtype, device=weight.device)
        if rows < cols:
            return self.adjoint(weight, units.view(rows, weight.shape[0], *self.output_size)).flatten(1)
        return self.apply(weight, units.view(cols, channels, *self.image_size)).flatten(1).mT

    def shape(self, weight: Tensor) -> tuple[int, int]:
        """Return how many numbers the outputs and the images have."""
        rows, cols = weight.shape[0], weight.shape[1] * self.groups
        return rows * math.prod(self.output_size), cols * math.prod(self.image_size)

    def _lengths(self) -> list[int]:
        """Return how long a padded image must be for exactly `output_size` outputs."""
        taps = zip(self.output_size, self.stride, self.dilation, self.kernel_size, strict=True)
        return [(m - 1) * s + d * (k - 1) + 1 for m, s, d, k in taps]

    def _pad(self, images: Tensor) -> Tensor:
        if self.padding_mode == "zeros":
            return nn.functional.pad(images, self._zeros())
        for dimension, (_, places) in enumerate(self._all_places(images.device), start=2):
            images = images.index_select(dimension, places)
        return images

    def _zeros(self) -> list[int]:
        """Return the zeros before and behind, from the last dimension to the first, as torch takes them."""
        ends = zip(self.image_size, self.padding, self._lengths(), strict=True)
        return [side for n, p, length in reversed(list(ends)) for side in (p, length - n - p)]

    def _all_places(self, device: torch.device) -> list[tuple[int, Tensor]]:
        """Return n and the pixel that stands at each place of the padded image, for each dimension."""
        ends = zip(self.image_size, self.padding, self._lengths(), strict=True)
        return [(n, _places(n, p, length, self.padding_mode).to(device)) for n, p, length in ends]


def _places(n: int, before: int, length: int, mode: str) -> Tensor:
    places = torch.arange(length) - before
    if mode == "circular":
        return places % n
    if mode == "replicate":
        return places.clamp(0, n - 1)
    return n - 1 - (n - 1 - places.abs()).abs()  # reflected at both ends


def _sides(layer: Any) -> tuple[tuple[int, int], ...]:
    """Return the padding before and behind, for each dimension."""
    if layer.padding == "same":
        totals = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    if layer.padding == "valid":
        return ((0, 0),) * len(layer.kernel_size)
    return tuple((p, p) for p in layer.padding)
