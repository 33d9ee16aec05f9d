"""Spectra of weight matrices: measuring them, and shaping them with preconditioning polynomials. Pure torch."""

from pcgan_lightning.spectra.matrices import weight_layers
from pcgan_lightning.spectra.pc_layer import Preconditioner, original_weight, preconditioners
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
    chosen_layers,
    match_preconditioning,
    original_parameters,
    precondition,
    remove_preconditioning,
)
from pcgan_lightning.spectra.shared_weights import shared_weights
from pcgan_lightning.spectra.singular_values import (
    condition_number,
    modified_condition_number,
    singular_values,
)
from pcgan_lightning.spectra.svd import d_optimal_penalty, orthogonal_svd, remove_svd, svd_factors

__all__ = [
    "PUBLISHED_CUTOFFS",
    "PUBLISHED_POLYNOMIALS",
    "LayerChoice",
    "Polynomial",
    "Preconditioner",
    "as_polynomial",
    "chosen_layers",
    "condition_number",
    "d_optimal_penalty",
    "fit_polynomial",
    "fitted_cutoff",
    "match_preconditioning",
    "modified_condition_number",
    "original_parameters",
    "original_weight",
    "orthogonal_svd",
    "piecewise_linear",
    "power_iteration",
    "precondition",
    "preconditioners",
    "remove_preconditioning",
    "remove_svd",
    "shared_weights",
    "singular_values",
    "svd_factors",
    "weight_layers",
]
