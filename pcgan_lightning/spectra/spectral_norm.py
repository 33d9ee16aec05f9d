"""Taking over the spectral norm that torch put on a layer, of either kind, with its singular vectors."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, remove_spectral_norm

from pcgan_lightning.spectra.pc_layer import Preconditioner, weight_parametrizations


def parametrized_spectral_norm(layer: nn.Module) -> parametrizations._SpectralNorm | None:
    """Return what ``torch.nn.utils.parametrizations.spectral_norm``, and nothing else, has put on a weight, if any."""
    chain = weight_parametrizations(layer)
    first = chain[0] if chain is not None and len(chain) == 1 else None
    return first if isinstance(first, parametrizations._SpectralNorm) else None


def spectral_norm_hook(layer: nn.Module) -> SpectralNorm | None:
    """Return the hook of ``torch.nn.utils.spectral_norm`` on a layer's weight, if there is one."""
    hooks = (h for h in layer._forward_pre_hooks.values() if isinstance(h, SpectralNorm))
    return next((h for h in hooks if h.name == "weight"), None)


def remove_spectral_norm_hook(layer: nn.Module) -> tuple[int, Tensor, Tensor] | None:
    """Undo torch.nn.utils.spectral_norm without normalising, keeping the Parameter; return its u and v."""
    hook = spectral_norm_hook(layer)
    if hook is None:
        return None
    weight = layer.get_parameter("weight_orig")
    u, v = layer.get_buffer("weight_u").clone(), layer.get_buffer("weight_v").clone()
    remove_spectral_norm(layer)
    for key, pre in list(layer._load_state_dict_pre_hooks.items()):
        if isinstance(getattr(pre, "hook", pre), SpectralNormLoadStateDictPreHook):
            del layer._load_state_dict_pre_hooks[key]
    # torch leaves a new Parameter that holds the normalised weight; the optimizer owns the original one.
    layer.register_parameter("weight", weight)
    return hook.dim, u, v


@torch.no_grad()
def take_over_vectors(new: Preconditioner, weight: Tensor, dim: int, u: Tensor, v: Tensor) -> None:
    """Start from torch's u and v, unless they are of another matrix or worse than a tenth off the exact norm.

    torch's older kind starts at random and iterates only in forward, so that a fresh one knows nothing yet.
    """
    # A spectral norm along another axis, or across groups, has vectors of another matrix.
    if dim != int(new.layout.transposed) or new.layout.groups > 1:
        return
    matrices = new.matrices(weight)
    exact, exact_u, exact_v = new.spectral_norm(matrices), new.u.clone(), new.v.clone()
    new.u.copy_(u)
    new.v.copy_(v)
    good = 1.1 * new.spectral_norm(matrices) >= exact
    new.u.copy_(torch.where(good, new.u, exact_u))
    new.v.copy_(torch.where(good, new.v, exact_v))
