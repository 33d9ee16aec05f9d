"""Small games whose answer is known. Pure torch."""

from pcgan_lightning.games.bimodal import BimodalGame, BimodalRun, Players
from pcgan_lightning.games.mixture import ModeCoverage, mode_coverage, ring_of_modes

__all__ = ["BimodalGame", "BimodalRun", "ModeCoverage", "Players", "mode_coverage", "ring_of_modes"]
