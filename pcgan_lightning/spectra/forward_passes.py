"""Forward passes that compute the PC-layers of a network together, before the first of them is used.

The hooks stand on the network that :func:`precondition` was given, so that any training loop has them. A layer that is
used outside of that network's forward pass is computed on its own.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from pcgan_lightning.spectra.batches import preconditioned
from pcgan_lightning.spectra.pc_layer import Preconditioner
from pcgan_lightning.spectra.shared_weights import enter_pass, kept_weights, leave_pass


def compute_together(network: nn.Module) -> None:
    """Let each forward pass of `network` compute its PC-layers in batches; a single one has nothing to share."""
    remove_hooks(network)
    if len(list(_pc_layers(network))) > 1:
        network.register_forward_pre_hook(_enter, prepend=True)
        network.register_forward_hook(_leave, always_call=True)


def remove_hooks(network: nn.Module) -> None:
    """Undo :func:`compute_together`."""
    for hooks, own in ((network._forward_pre_hooks, _enter), (network._forward_hooks, _leave)):
        for key in [key for key, hook in hooks.items() if hook is own]:
            del hooks[key]
            network._forward_hooks_always_called.pop(key, None)


def _pc_layers(network: nn.Module) -> Iterator[tuple[nn.Module, Preconditioner, Tensor]]:
    """Yield layers, their PC-layers and weights; by no attribute of a module, since this runs in each pass."""
    for layer in network.modules():
        chains = layer._modules.get("parametrizations")
        chain = None if chains is None else chains._modules.get("weight")
        p = None if chain is None else chain._modules.get("0")
        weight = None if chain is None else chain._parameters.get("original")
        if isinstance(p, Preconditioner) and weight is not None:
            yield layer, p, weight


def _enter(network: nn.Module, inputs: Any) -> None:
    enter_pass(network)
    kept = kept_weights()
    if kept is None:
        return
    missing = []
    for layer, p, weight in _pc_layers(network):
        # What `parametrize.cached` has is used without asking the PC-layer.
        if (id(layer), "weight") in parametrize._cache:
            continue
        member, origin = p.member(weight), p.origin(weight)
        if member is not None and origin is not None and (id(p) not in kept or kept[id(p)].origin != origin):
            missing.append((p, member, origin))
    for (p, member, origin), weight in zip(missing, preconditioned([m for _, m, _ in missing]), strict=True):
        p.keep(kept, origin, member.weight, weight)


def _leave(network: nn.Module, inputs: Any, outputs: Any) -> None:
    leave_pass(network)
