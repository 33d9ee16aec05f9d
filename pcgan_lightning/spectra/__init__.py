"""Spectra of weight matrices: measuring them, and shaping them with preconditioning polynomials. Pure torch."""

from pcgan_lightning.spectra.convolutions import (
    ConvolutionOperator,
    InputShape,
    convolution_norm,
    convolution_norm_bound,
    convolution_operators,
    convolution_singular_values,
    extreme_singular_values,
    input_sizes,
    power_iterate,
    reshaped_norm_bound,
)
from pcgan_lightning.spectra.linear_networks import (
    Descent,
    SpectralRegion,
    gradient_descent,
    linear_network,
)
from pcgan_lightning.spectra.lipschitz import LipschitzBound, lipschitz_bound
from pcgan_lightning.spectra.matrices import weight_layers, without_autocast
from pcgan_lightning.spectra.minimax import fit_minimax
from pcgan_lightning.spectra.pc_layer import Preconditioner, Scale, original_weight, preconditioners
from pcgan_lightning.spectra.polynomials import (
    PUBLISHED_CUTOFFS,
    PUBLISHED_POLYNOMIALS,
    Polynomial,
    as_polynomial,
    fit_polynomial,
    fitted_cutoff,
    piecewise_linear,
)
from pcgan_lightning.spectra.power_iterations import power_iteration
from pcgan_lightning.spectra.preconditioning import (
    LayerChoice,
    Norm,
    chosen_layers,
    match_preconditioning,
    original_parameters,
    precondition,
    remove_preconditioning,
)
from pcgan_lightning.spectra.shared_weights import shared_weights
from pcgan_lightning.spectra.singular_values import (
    View,
    condition_number,
    modified_condition_number,
    singular_values,
)
from pcgan_lightning.spectra.svd import d_optimal_penalty, orthogonal_svd, remove_svd, svd_factors

__all__ = [
    "PUBLISHED_CUTOFFS",
    "PUBLISHED_POLYNOMIALS",
    "ConvolutionOperator",
    "Descent",
    "InputShape",
    "LayerChoice",
    "LipschitzBound",
    "Norm",
    "Polynomial",
    "Preconditioner",
    "Scale",
    "SpectralRegion",
    "View",
    "as_polynomial",
    "chosen_layers",
    "condition_number",
    "convolution_norm",
    "convolution_norm_bound",
    "convolution_operators",
    "convolution_singular_values",
    "d_optimal_penalty",
    "extreme_singular_values",
    "fit_minimax",
    "fit_polynomial",
    "fitted_cutoff",
    "gradient_descent",
    "input_sizes",
    "linear_network",
    "lipschitz_bound",
    "match_preconditioning",
    "modified_condition_number",
    "original_parameters",
    "original_weight",
    "orthogonal_svd",
    "piecewise_linear",
    "power_iterate",
    "power_iteration",
    "precondition",
    "preconditioners",
    "remove_preconditioning",
    "remove_svd",
    "reshaped_norm_bound",
    "shared_weights",
    "singular_values",
    "svd_factors",
    "weight_layers",
    "without_autocast",
]
