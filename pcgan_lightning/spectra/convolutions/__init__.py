"""Spectra of convolutions as the operators that they are: exact, iterated, and bounded for certain."""

from pcgan_lightning.spectra.convolutions.bounds import convolution_norm_bound, gram_iteration, reshaped_norm_bound
from pcgan_lightning.spectra.convolutions.networks import (
    InputShape,
    convolution_operators,
    convolutions,
    input_sizes,
    run_with_zeros,
)
from pcgan_lightning.spectra.convolutions.norms import (
    convolution_norm,
    convolution_singular_values,
    extreme_singular_values,
    is_small,
    power_iterate,
    random_images,
)
from pcgan_lightning.spectra.convolutions.operator import ConvolutionOperator

__all__ = [
    "ConvolutionOperator",
    "InputShape",
    "convolution_norm",
    "convolution_norm_bound",
    "convolution_operators",
    "convolution_singular_values",
    "convolutions",
    "extreme_singular_values",
    "gram_iteration",
    "input_sizes",
    "is_small",
    "power_iterate",
    "random_images",
    "reshaped_norm_bound",
    "run_with_zeros",
]
