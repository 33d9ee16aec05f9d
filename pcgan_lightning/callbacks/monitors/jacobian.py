"""The eigenvalues of the game's Jacobian over training."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from pcgan_lightning.callbacks.loggers import log_picture, log_scalars
from pcgan_lightning.callbacks.monitors._figures import jacobian_figure
from pcgan_lightning.callbacks.monitors._steps import players_of
from pcgan_lightning.callbacks.targets import Target, check_interval, completed_iterations
from pcgan_lightning.games import (
    EigenvaluesNotConverged,
    Game,
    Leading,
    conditioning_factor,
    every_eigenvalue,
    leading_eigenvalues,
    least_products,
    phase_factor,
)
from pcgan_lightning.networks import SynchronizedBatchNorm

log = logging.getLogger("lightning.pytorch")

Losses = Callable[["pl.LightningModule", Any], tuple[Tensor, Tensor]]


class JacobianSpectrumLogger(Callback):
    r"""Log the leading eigenvalues of the Jacobian A of simultaneous gradient descent, and what they say of training.

    "Towards a better understanding and regularization of GAN training dynamics" (JARE), Sections 3 and 4. After the
    first iteration and every `every_n_steps`-th one, at the present parameters of both players:

    - ``jacobian/zeta``: the phase factor :math:`\max_k |\mathrm{Im}\,\lambda_k / \mathrm{Re}\,\lambda_k|`;
    - ``jacobian/tau``: the conditioning factor :math:`\max_{j,k} |\lambda_j / \lambda_k|`;
    - ``jacobian/eigenvalue_<i>/real`` and ``/imaginary``, i = 1..count;
    - ``jacobian/seconds``: what the measurement took;
    - at the end ``jacobian.png``: the eigenvalues in the complex plane, and both factors over time.

    A is that of the losses, without a penalty, on `samples` real images of the iteration's batch and on latents that
    stay the same; of a ``SimultaneousGAN`` with ConOpt or JARE it is that of the regularised losses. Of a game with at
    most `max_products` parameters all eigenvalues are computed; those that are 0 but for rounding have no phase, and
    make tau infinite. Of a larger one the `count` of largest modulus and the `count` of largest imaginary part are
    found by Arnoldi's method, without forming the matrix; both factors are then lower bounds. PC-layers count with
    their singular vectors held, as in training. A measurement of players that are not finite is NaN. With several
    processes it is of the first one's batch.

    **Cost**: at most `max_products` products with A for each of the two kinds of eigenvalues, each a little more than a
    backward pass through the gradients of `samples` images (with ConOpt or JARE: through theirs); memory as of three
    (four) training steps of so many images. Training is not disturbed: no random state, gradient or buffer moves.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        count: eigenvalues of either kind.
        samples: real images, and generated ones, at most those of a batch.
        max_products: bound on the products with A for either kind. Eigenvalues that have not converged by then are
            left out.
        tolerance: relative accuracy of the eigenvalues.
        regularized: whether ConOpt or JARE is part of the game. That takes third derivatives, which torch does not have
            of batch normalisation.
        losses: function of the LightningModule and a batch that returns the losses that generator and discriminator
            minimise, with one graph. None: those of the modules of this package.
        targets: the players: dotted names in the LightningModule, or functions of it.

    Attributes:
        series: ``{"iteration": [...], "zeta": [...], "tau": [...], "eigenvalues": [[(real, imaginary), ...], ...]}``,
            one entry a measurement.

    Raises:
        ValueError: for arguments out of range; at a measurement, for losses without second derivatives; before
            training, for batch normalisation over several processes.
        TypeError: at setup, for a module whose losses are not known where `losses` is None.
    """

    def __init__(
        self,
        every_n_steps: int = 1000,
        count: int = 6,
        samples: int = 64,
        max_products: int = 200,
        tolerance: float = 1e-3,
        regularized: bool = True,
        losses: Optional[Losses] = None,
        targets: Sequence[Target] = ("generator", "discriminator"),
    ) -> None:
        for name, value in (("count", count), ("samples", samples)):
            if value < 1:
                raise ValueError(f"argument `{name}` must be at least 1, got {value}")
        if max_products < least_products(count):
            raise ValueError(
                f"argument `max_products` must be at least {least_products(count)} for {count} eigenvalues, "
                f"got {max_products}"
            )
        if not tolerance > 0.0:
            raise ValueError(f"argument `tolerance` must be positive, got {tolerance}")
        self.every_n_steps = check_interval(every_n_steps)
        self.count = count
        self.samples = samples
        self.max_products = max_products
        self.tolerance = tolerance
        self.regularized = regularized
        self.losses = losses
        self.targets = tuple(targets)
        self.series: dict[str, list] = {"iteration": [], "zeta": [], "tau": [], "eigenvalues": []}

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse a wrong target, or a module whose losses are not known, before anything runs."""
        players_of(pl_module, self.targets)
        if self.losses is None and not hasattr(pl_module, "game_losses"):
            raise TypeError(
                "JacobianSpectrumLogger needs the argument `losses`, or a module with `game_losses(real, latents)`, "
                f"got {type(pl_module).__name__}"
            )

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Refuse batch normalisation over processes, which measure games of their own."""
        kinds = (SynchronizedBatchNorm, nn.SyncBatchNorm)
        if trainer.world_size > 1 and any(isinstance(module, kinds) for module in pl_module.modules()):
            raise ValueError(
                "argument `sync_batchnorm` of the trainer must be false for JacobianSpectrumLogger, which measures in "
                "each process by itself, got true"
            )

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure in the first iteration and at the interval."""
        iteration = completed_iterations(trainer)
        if iteration == 1 or iteration % self.every_n_steps == 0:
            self.measure(trainer, pl_module, batch)

    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any) -> Tensor:
        """Measure now on a batch, extend the series, write to the loggers, and return the eigenvalues ``[K]``."""
        started = time.perf_counter()
        with _undisturbed(pl_module):
            leading, others, negligible = self.eigenvalues(self.game(pl_module, batch))
        seconds = time.perf_counter() - started
        eigenvalues = torch.cat([leading, others])
        found = len(eigenvalues) > 0
        zeta = phase_factor(eigenvalues, negligible).item() if found else math.nan
        tau = conditioning_factor(eigenvalues, negligible).item() if found else math.nan
        pairs = [(value.real, value.imag) for value in eigenvalues.tolist()]
        iteration = completed_iterations(trainer)
        if not self.series["iteration"]:
            log.info(f"JacobianSpectrumLogger: a measurement takes {seconds:.1f} s")
        for key, value in (("iteration", iteration), ("zeta", zeta), ("tau", tau), ("eigenvalues", pairs)):
            self.series[key].append(value)
        metrics = {"jacobian/zeta": zeta, "jacobian/tau": tau, "jacobian/seconds": seconds}
        missing = [(math.nan, math.nan)] * (self.count - len(leading))
        for i, (real, imaginary) in enumerate((pairs[: len(leading)] + missing)[: self.count], start=1):
            metrics |= {f"jacobian/eigenvalue_{i}/real": real, f"jacobian/eigenvalue_{i}/imaginary": imaginary}
        log_scalars(trainer, metrics)
        return eigenvalues

    def game(self, pl_module: "pl.LightningModule", batch: Any) -> Game:
        """Return the game of a batch; ``Game.regularized`` with a module's ConOpt or JARE."""
        players = [
            [p for p in network.parameters() if p.requires_grad]
            for network in players_of(pl_module, self.targets).values()
        ]
        if self.losses is not None:
            return Game(lambda: self.losses(pl_module, batch), *players)
        real = pl_module.real_images(batch)[: self.samples]
        latents = pl_module.fixed_latents(len(real))
        game = Game(lambda: pl_module.game_losses(real, latents), *players)
        method = getattr(pl_module, "method", None)
        if method is None or not self.regularized:
            return game
        plain, game = game, method.regularized(game)
        if method.twice_differentiated:
            try:
                game.linearize()
            except ValueError as error:
                plain.linearize()  # what is wrong without the regulariser has a message of its own
                raise ValueError(
                    "argument `regularized` must be False for networks without third derivatives, as with batch "
                    f"normalisation, got {type(method).__name__}: {error}"
                ) from error
        return game

    def eigenvalues(self, game: Game) -> tuple[Tensor, Tensor, float]:
        """Return a game's eigenvalues of largest modulus, further ones, and what part of the largest is but rounding.

        None are returned of a game that is not finite.
        """
        none = torch.zeros(0, dtype=torch.complex128)
        direction = game.update_direction()
        if not direction.isfinite().all():
            return none, none, 0.0
        if game.size <= self.max_products:
            return every_eigenvalue(game), none, 100 * torch.finfo(direction.dtype).eps
        return self._leading(game, "modulus"), self._leading(game, "imaginary"), self.tolerance

    def _leading(self, game: Game, which: Leading) -> Tensor:
        try:
            return leading_eigenvalues(game, self.count, which, self.tolerance, self.max_products)
        except EigenvaluesNotConverged as error:
            return error.eigenvalues

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Draw the figure."""
        if trainer.is_global_zero and self.series["iteration"]:
            log_picture(trainer, "jacobian", "jacobian.png", jacobian_figure(self.series))

    def state_dict(self) -> dict[str, Any]:
        """Return the series measured so far."""
        return {"series": self.series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's series."""
        self.series = state_dict["series"]


@contextmanager
def _undisturbed(pl_module: nn.Module) -> Iterator[None]:
    """Let the losses be computed as in training, and forget what that moved: statistics of batches, random numbers."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in pl_module.buffers()]
    devices = [pl_module.device] if pl_module.device.type == "cuda" else []
    # A compiled network has no second derivative.
    try:
        with torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
