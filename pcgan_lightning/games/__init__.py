"""Two-player games: Jacobians, regularisers, small games whose answer is known, the modes of a mixture. Pure torch."""

from pcgan_lightning.games.bimodal import BimodalGame, BimodalRun, Players
from pcgan_lightning.games.equilibria import equilibrium_blocks, equilibrium_jacobian
from pcgan_lightning.games.game import Game
from pcgan_lightning.games.linear_gan import LinearGAN, LinearRun
from pcgan_lightning.games.linearization import Linearization
from pcgan_lightning.games.mixture import ModeCoverage, mode_coverage, ring_of_modes
from pcgan_lightning.games.regularizers import JARE, ConOpt, GameMethod, SimGD
from pcgan_lightning.games.spectrum import (
    EigenvaluesNotConverged,
    best_step_size,
    conditioning_factor,
    conditioning_iterations,
    every_eigenvalue,
    largest_step_size,
    leading_eigenvalues,
    phase_factor,
    phase_iterations,
)

__all__ = [
    "JARE",
    "BimodalGame",
    "BimodalRun",
    "ConOpt",
    "EigenvaluesNotConverged",
    "Game",
    "GameMethod",
    "LinearGAN",
    "LinearRun",
    "Linearization",
    "ModeCoverage",
    "Players",
    "SimGD",
    "best_step_size",
    "conditioning_factor",
    "conditioning_iterations",
    "equilibrium_blocks",
    "equilibrium_jacobian",
    "every_eigenvalue",
    "largest_step_size",
    "leading_eigenvalues",
    "mode_coverage",
    "phase_factor",
    "phase_iterations",
    "ring_of_modes",
]
