"""Small games whose answer is known. Pure torch."""

from pcgan_lightning.games.bimodal import BimodalGame, BimodalRun, Players

__all__ = ["BimodalGame", "BimodalRun", "Players"]
