"""Two-player games: their Jacobians and eigenvalues, and small games whose answer is known. Pure torch."""

from pcgan_lightning.games.bimodal import BimodalGame, BimodalRun, Players
from pcgan_lightning.games.equilibria import equilibrium_blocks, equilibrium_jacobian
from pcgan_lightning.games.game import Game, Linearization
from pcgan_lightning.games.linear_gan import LinearGAN, LinearRun
from pcgan_lightning.games.spectrum import (
    EigenvaluesNotConverged,
    best_step_size,
    conditioning_factor,
    conditioning_iterations,
    largest_step_size,
    leading_eigenvalues,
    phase_factor,
    phase_iterations,
)

__all__ = [
    "BimodalGame",
    "BimodalRun",
    "EigenvaluesNotConverged",
    "Game",
    "LinearGAN",
    "LinearRun",
    "Linearization",
    "Players",
    "best_step_size",
    "conditioning_factor",
    "conditioning_iterations",
    "equilibrium_blocks",
    "equilibrium_jacobian",
    "largest_step_size",
    "leading_eigenvalues",
    "phase_factor",
    "phase_iterations",
]
