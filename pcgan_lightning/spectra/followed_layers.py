"""The layers whose singular vectors follow optimizers, found from the parameters that an optimizer holds."""

import itertools
import threading
import weakref
from collections import deque
from typing import NamedTuple, Optional

from torch import nn
from torch.optim.optimizer import Optimizer

MANY = 1000  # layers, or weights, that are looked through at once


class Followed(NamedTuple):
    """A layer, and its place in the order in which layers came, so that two equal runs batch them alike."""

    number: int
    layer: "weakref.ref[nn.Module]"


class FollowedLayers:
    """Layers by the identity of their weight, weakly: a step costs nothing for the layers of other optimizers.

    A weight is found again where another Parameter takes its place. Since layers are found before they are complete (a
    copy in the making, a conversion under way), what is found is looked at when the next optimizer has stepped. Several
    threads may step, and change networks of their own, at once.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        # Entries are replaced as a whole, under the lock; reading them needs none.
        self._by_weight: dict[int, tuple[Followed, ...]] = {}
        self._unsure: deque[Followed] = deque()
        self._size = 0  # when dead entries were last removed
        self._lock = threading.RLock()

    def add(self, layer: nn.Module) -> Followed:
        """Follow a layer, as the last of all."""
        followed = Followed(next(self._numbers), weakref.ref(layer))
        self.look_again(followed)
        return followed

    def look_again(self, followed: Followed) -> None:
        """Expect a layer to have another weight soon."""
        self._unsure.append(followed)
        if len(self._unsure) > MANY:
            self._look()

    def expect(self, followed: Followed, weight: nn.Parameter) -> None:
        """Expect a layer to have this weight soon."""
        with self._lock:
            others = [f for f in self._by_weight.get(id(weight), ()) if f.layer() not in (None, followed.layer())]
            self._by_weight[id(weight)] = (*others, followed)

    def of_optimizer(self, optimizer: Optimizer) -> list[nn.Module]:
        """Return the layers whose weight is in the optimizer's groups, in the order in which they came."""
        if self._unsure:
            self._look()
        by_weight = self._by_weight
        found = [(f, p) for group in optimizer.param_groups for p in group["params"] for f in by_weight.get(id(p), ())]
        if not found:
            return []
        layers = {f.number: layer for f, p in found if (layer := f.layer()) is not None and weight_of(layer) is p}
        return [layers[number] for number in sorted(layers)]

    def _look(self) -> None:
        """Take in the weights of the layers that may have a new one."""
        with self._lock:
            for _ in range(len(self._unsure)):
                followed = self._unsure.popleft()
                layer = followed.layer()
                if layer is None:
                    continue
                if not layer.__dict__:  # another thread is copying it
                    self._unsure.append(followed)
                elif (weight := weight_of(layer)) is not None:
                    self.expect(followed, weight)
            if len(self._by_weight) > 2 * self._size + MANY:
                self._remove_dead()

    def _remove_dead(self) -> None:
        for key, entries in list(self._by_weight.items()):
            alive = tuple(f for f in entries if (layer := f.layer()) is not None and id(weight_of(layer)) == key)
            if alive:
                self._by_weight[key] = alive
            else:
                del self._by_weight[key]
        self._size = len(self._by_weight)


def weight_of(layer: nn.Module) -> Optional[nn.Parameter]:
    """Return the Parameter beneath the parametrization of a layer's weight that is followed, None without any."""
    # Not by attributes, of which a layer that is being taken apart may lack any.
    chains = layer.__dict__.get("_modules", {}).get("parametrizations")
    chain = chains._modules.get("weight") if chains is not None else None
    if chain is None:
        return None
    # Of U, d and V it is d that is looked after.
    return chain._parameters.get("original") if "original" in chain._parameters else chain._parameters.get("original1")


FOLLOWED_LAYERS = FollowedLayers()
