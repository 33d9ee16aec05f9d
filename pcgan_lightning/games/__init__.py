"""Two-player games: small ones whose answer is known, and methods of playing any. Pure torch."""

from pcgan_lightning.games.bimodal import BimodalGame, BimodalRun, Players
from pcgan_lightning.games.regularizers import JARE, ConOpt, GameMethod, SimGD

__all__ = ["JARE", "BimodalGame", "BimodalRun", "ConOpt", "GameMethod", "Players", "SimGD"]
