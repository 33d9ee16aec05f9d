"""The name under which earlier checkpoints know the methods; see ``methods``."""

from pcgan_lightning.games.methods import JARE, ConOpt, SimGD

__all__ = ["JARE", "ConOpt", "SimGD"]
