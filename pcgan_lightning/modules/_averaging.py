"""The exponential moving average of a generator's weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pcgan_lightning.spectra import match_preconditioning, power_iteration, preconditioners


class MovingAverage(AveragedModel):
    r"""A copy of a network whose weights are :math:`\bar w \leftarrow \beta \bar w + (1 - \beta) w` after each update.

    torch's ``AveragedModel``, without its wait for the device at every update and without its copy of the singular
    vectors of PC-layers: the averaged weights have their own. The first update copies the weights.

    Args:
        network: what is averaged.
        decay: :math:`\beta` in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        self.decay = decay
        self._has_begun = False
        self.requires_grad_(False)

    def begin_run(self) -> None:
        """Read, where waiting for the device costs nothing, whether a resumed average has taken up any weights."""
        self._has_begun = bool(self.n_averaged)

    def take_form_of(self, network: nn.Module) -> None:
        """Put on the PC-layers that `network` has, or take them off."""
        match_preconditioning(self.module, network.state_dict())

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take up the present weights of `network`, and copy its buffers and its PC-layers' polynomials."""
        own: list[Tensor] = list(self.module.parameters())
        present = [p.detach() for p in network.parameters()]
        if self._has_begun:
            torch._foreach_lerp_(own, present, 1 - self.decay)
        else:
            torch._foreach_copy_(own, present)
        self.n_averaged += 1
        self._has_begun = True
        pc_layers = preconditioners(self.module)
        vectors = {id(vector) for layer in pc_layers.values() for vector in (layer.u, layer.v)}
        for buffer, source in zip(self.module.buffers(), network.buffers(), strict=True):
            if id(buffer) not in vectors:
                buffer.copy_(source)
        for name, layer in preconditioners(network).items():
            pc_layers[name].polynomial = layer.polynomial
        power_iteration(self)
