"""The SVD baseline of PC-GAN as a callback on any LightningModule."""

from torch import nn

from pcgan_lightning.callbacks.preconditioning import Preconditioning
from pcgan_lightning.callbacks.targets import Target
from pcgan_lightning.spectra import orthogonal_svd


class SVDParametrization(Preconditioning):
    r"""The baseline "SVD": the target's weights become :math:`U^\top \mathrm{diag}(d) V`.

    Let the discriminator's loss have :class:`~pcgan_lightning.losses.DOptimalPenalty` (``penalty`` of ``GAN``), without
    which nothing keeps U and V orthogonal.

    Args:
        target: the network: a dotted name in the LightningModule, or a function of it.
    """

    def __init__(self, target: Target = "discriminator") -> None:
        super().__init__(target, "all", normalize_rest=False)

    def attach(self, network: nn.Module) -> None:
        """Parametrise all layers; again, those that are not."""
        orthogonal_svd(network)
