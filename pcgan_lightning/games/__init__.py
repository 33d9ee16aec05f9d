"""Two-player games: Jacobians, methods of playing, small games whose answer is known. Pure torch."""

from pcgan_lightning.games.bimodal import BimodalGame, BimodalPlayers, BimodalRun
from pcgan_lightning.games.dualing import (
    CostLinearization,
    DualingMethod,
    DualingUpdate,
    LinearDual,
    ScoreLinearization,
)
from pcgan_lightning.games.equilibria import equilibrium_blocks, equilibrium_jacobian
from pcgan_lightning.games.game import PLAYERS, Game, Player, Players
from pcgan_lightning.games.inner_problem import DualPoint, InnerProblem, MatrixMap, Solution, binary_entropy
from pcgan_lightning.games.linear_gan import LinearGAN, LinearRun
from pcgan_lightning.games.linearization import Linearization
from pcgan_lightning.games.methods import (
    JARE,
    ConOpt,
    ExtraGradient,
    GameMethod,
    SimGD,
    SquaredGradientMethod,
    SymplecticGradientAdjustment,
)
from pcgan_lightning.games.point import Point, trial_step
from pcgan_lightning.games.scored_samples import ScoredSamples, linear_problem, score_problem
from pcgan_lightning.games.spectrum import (
    EigenvaluesNotConverged,
    Leading,
    best_step_size,
    conditioning_factor,
    conditioning_iterations,
    every_eigenvalue,
    largest_step_size,
    leading_eigenvalues,
    least_products,
    phase_factor,
    phase_iterations,
)

__all__ = [
    "JARE",
    "PLAYERS",
    "BimodalGame",
    "BimodalPlayers",
    "BimodalRun",
    "ConOpt",
    "CostLinearization",
    "DualPoint",
    "DualingMethod",
    "DualingUpdate",
    "EigenvaluesNotConverged",
    "ExtraGradient",
    "Game",
    "GameMethod",
    "InnerProblem",
    "Leading",
    "LinearDual",
    "LinearGAN",
    "LinearRun",
    "Linearization",
    "MatrixMap",
    "Player",
    "Players",
    "Point",
    "ScoreLinearization",
    "ScoredSamples",
    "SimGD",
    "Solution",
    "SquaredGradientMethod",
    "SymplecticGradientAdjustment",
    "best_step_size",
    "binary_entropy",
    "conditioning_factor",
    "conditioning_iterations",
    "equilibrium_blocks",
    "equilibrium_jacobian",
    "every_eigenvalue",
    "largest_step_size",
    "leading_eigenvalues",
    "least_products",
    "linear_problem",
    "phase_factor",
    "phase_iterations",
    "score_problem",
    "trial_step",
]
