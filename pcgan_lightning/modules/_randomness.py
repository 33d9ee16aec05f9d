"""The random numbers of a run: slices of one stream for n processes, and continued by a run that is resumed."""

from collections.abc import Callable, Mapping
from typing import Any, Optional

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from pcgan_lightning.modules._processes import Share


class RandomStreams:
    """The streams that latents come from, and torch's global random state in every process.

    The latents are counter-based: those of an iteration depend on the seed and its number alone. The global state
    serves whatever else draws numbers (dropout, networks of others); in the first process it is as the seed left it,
    the others have numbers of their own.
    """

    def __init__(self) -> None:
        self.begin_run()

    def begin_run(self) -> None:
        """Forget an earlier run."""
        self._seed: Optional[int] = None
        self._global_states: Optional[list[dict[str, Tensor]]] = None  # of all processes, not taken up yet
        self._has_begun = False
        self._source: Optional[torch.Generator] = None

    def begin_iteration(self, trainer: "pl.Trainer", iteration: int) -> None:
        """Point at the stream of an iteration."""
        if self._seed is None:
            self._seed = trainer.strategy.broadcast(torch.initial_seed())
        if not self._has_begun:
            # Only here: until the first step of a resumed run, loaders and hooks may still draw numbers.
            self._begin_global(self._seed, trainer.global_rank)
        key = np.random.SeedSequence([self._seed, iteration]).generate_state(1, np.uint64)
        self._source = torch.Generator(trainer.strategy.root_device).manual_seed(int(key[0]) >> 1)

    def draw(self, make: Callable[..., Tensor], share: Share, *shape: int) -> Tensor:
        """Return this process's slice ``[share.count, *shape]`` of the next numbers.

        Args:
            make: ``torch.randn`` or its like.
            share: of this process.
            shape: of each sample.
        """
        if self._source is None:
            raise RuntimeError("latents must be drawn within an iteration, got none that has begun")
        drawn = make(share.total, *shape, generator=self._source, device=self._source.device)
        return drawn[share.offset : share.offset + share.count]

    def _begin_global(self, seed: int, rank: int) -> None:
        states, self._global_states, self._has_begun = self._global_states, None, True
        if states is not None and rank < len(states):
            torch.set_rng_state(states[rank]["cpu"].cpu())
            if "cuda" in states[rank] and torch.cuda.is_available():
                torch.cuda.set_rng_state(states[rank]["cuda"].cpu())
        elif rank > 0:
            torch.manual_seed(int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint64)[0]))

    def state_dict(self, trainer: "pl.Trainer") -> dict[str, Any]:
        """Return the seed and all processes' global states; to be called by all of them."""
        states: list[Any] = [_global_state()] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, states[0])
        # A resumed run that has not begun its first iteration still has to take up those of its checkpoint.
        return {"latent_seed": self._seed, "random_states": self._global_states or states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned, or begin anew where that is not in `state`."""
        self._seed, self._global_states = state.get("latent_seed"), state.get("random_states")


def _global_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state
