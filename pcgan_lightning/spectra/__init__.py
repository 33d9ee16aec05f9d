"""Spectra of weight matrices: measuring them, and shaping them with preconditioning polynomials. Pure torch."""

from pcgan_lightning.spectra.polynomials import (
    PUBLISHED_CUTOFFS,
    PUBLISHED_POLYNOMIALS,
    Polynomial,
    fit_polynomial,
    piecewise_linear,
    published_polynomial,
)
from pcgan_lightning.spectra.preconditioner import (
    Preconditioner,
    chosen_layers,
    match_preconditioning,
    original_parameters,
    power_iteration,
    precondition,
    preconditioners,
    remove_preconditioning,
)
from pcgan_lightning.spectra.singular_values import (
    condition_number,
    modified_condition_number,
    singular_values,
)

__all__ = [
    "PUBLISHED_CUTOFFS",
    "PUBLISHED_POLYNOMIALS",
    "Polynomial",
    "Preconditioner",
    "chosen_layers",
    "condition_number",
    "fit_polynomial",
    "match_preconditioning",
    "modified_condition_number",
    "original_parameters",
    "piecewise_linear",
    "power_iteration",
    "precondition",
    "preconditioners",
    "published_polynomial",
    "remove_preconditioning",
    "singular_values",
]
