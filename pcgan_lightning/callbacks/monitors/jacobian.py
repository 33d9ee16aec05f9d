"""The eigenvalues of the game's Jacobian over training."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least, require_positive
from pcgan_lightning.callbacks.monitors.monitor import Monitor
from pcgan_lightning.callbacks.targets import Target
from pcgan_lightning.games import (
    PLAYERS,
    EigenvaluesNotConverged,
    Game,
    GameMethod,
    Leading,
    conditioning_factor,
    every_eigenvalue,
    leading_eigenvalues,
    least_products,
    phase_factor,
)
from pcgan_lightning.report import draw_line

log = logging.getLogger("lightning.pytorch")

Losses = Callable[["pl.LightningModule", Any], tuple[Tensor, Tensor]]
Measurement = tuple[Tensor, Tensor, float, float]  # leading and further eigenvalues, what is but rounding, seconds


class JacobianSpectrumLogger(Monitor):
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

    first = 1
    at_end = False

    def __init__(
        self,
        every_n_steps: int = 1000,
        count: int = 6,
        samples: int = 64,
        max_products: int = 200,
        tolerance: float = 1e-3,
        regularized: bool = True,
        losses: Optional[Losses] = None,
        targets: Sequence[Target] = PLAYERS,
    ) -> None:
        super().__init__(every_n_steps, targets)
        require_at_least(1, count=count, samples=samples)
        if max_products < least_products(count):
            raise ValueError(
                f"argument `max_products` must be at least {least_products(count)} for {count} eigenvalues, "
                f"got {max_products}"
            )
        require_positive(tolerance=tolerance)
        self.count = count
        self.samples = samples
        self.max_products = max_products
        self.tolerance = tolerance
        self.regularized = regularized
        self.losses = losses
        self.series |= {"zeta": [], "tau": [], "eigenvalues": []}

    @override
    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self.losses is None and not hasattr(pl_module, "game_losses"):
            raise TypeError(
                "JacobianSpectrumLogger needs the argument `losses`, or a module with `game_losses(real, latents)`, "
                f"got {type(pl_module).__name__}"
            )

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.world_size > 1 and any(map(_waits_for_processes, pl_module.modules())):
            raise ValueError(
                "argument `sync_batchnorm` of the trainer must be false for JacobianSpectrumLogger, which measures in "
                "each process by itself, got true"
            )

    @override
    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any) -> Measurement:
        started = time.perf_counter()
        return *self.eigenvalues(self.game(pl_module, batch)), time.perf_counter() - started

    @override
    def record(self, iteration: int, found: Measurement) -> dict[str, float]:
        leading, others, negligible, seconds = found
        eigenvalues = torch.cat([leading, others])
        known = len(eigenvalues) > 0
        zeta = phase_factor(eigenvalues, negligible).item() if known else math.nan
        tau = conditioning_factor(eigenvalues, negligible).item() if known else math.nan
        pairs = [(value.real, value.imag) for value in eigenvalues.tolist()]
        super().record(iteration, {"zeta": zeta, "tau": tau, "eigenvalues": pairs})
        numbers = {"jacobian/zeta": zeta, "jacobian/tau": tau, "jacobian/seconds": seconds}
        missing = [(math.nan, math.nan)] * (self.count - len(leading))
        for i, (real, imaginary) in enumerate((pairs[: len(leading)] + missing)[: self.count], start=1):
            numbers |= {f"jacobian/eigenvalue_{i}/real": real, f"jacobian/eigenvalue_{i}/imaginary": imaginary}
        return numbers

    @override
    def show(self, trainer: "pl.Trainer", found: Measurement) -> None:
        if len(self.series["iteration"]) == 1:
            log.info(f"JacobianSpectrumLogger: a measurement takes {found[-1]:.1f} s")

    @override
    @contextmanager
    def undisturbed(self, pl_module: "pl.LightningModule") -> Iterator[None]:
        """Let the losses be computed as in training, and forget what that moved: statistics of batches, randomness."""
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

    def game(self, pl_module: "pl.LightningModule", batch: Any) -> Game:
        """Return the game of a batch; ``Game.regularized`` with a module's ConOpt or JARE."""
        networks = self.networks(pl_module).values()
        players = [[p for p in network.parameters() if p.requires_grad] for network in networks]
        losses = self.losses
        if losses is not None:
            return Game(lambda: losses(pl_module, batch), *players)
        gan: Any = pl_module  # `setup` has looked
        real = gan.real_images(batch)[: self.samples]
        latents = gan.fixed_latents(len(real))
        game = Game(lambda: gan.game_losses(real, latents), *players)
        method = getattr(pl_module, "method", None)
        if not isinstance(method, GameMethod) or not self.regularized:
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

    @override
    def figures(self) -> dict[str, Figure]:
        """Return one of eigenvalues in the complex plane, later ones darker, and of both factors over time."""
        series = self.series
        if not series["iteration"]:
            return {}
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        plane, *axes = figure.subplots(1, 3)
        measured = zip(series["iteration"], series["eigenvalues"], strict=True)
        points = [(iteration, *pair) for iteration, pairs in measured for pair in pairs]
        if points:
            iterations, real, imaginary = zip(*points, strict=True)
            drawn = plane.scatter(real, imaginary, c=iterations, cmap="viridis_r", s=14)
            figure.colorbar(drawn, ax=plane, label="iteration")
        # Most of the interest is in the angle, but eigenvalues differ by orders of magnitude.
        plane.set_xscale("symlog", linthresh=1e-3)
        plane.set_yscale("symlog", linthresh=1e-3)
        plane.axvline(0.0, color="gray", lw=0.8)
        plane.set(xlabel="real part", ylabel="imaginary part", title="eigenvalues of the Jacobian")
        for axis, key, title in zip(axes, ("zeta", "tau"), ("phase factor", "conditioning factor"), strict=True):
            draw_line(axis, (series["iteration"], series[key]), key, color="black")
            axis.set(xlabel="iteration", title=title, yscale="log")
            axis.grid(alpha=0.3)
        return {"jacobian": figure}


def _waits_for_processes(module: nn.Module) -> bool:
    return isinstance(module, nn.SyncBatchNorm) or getattr(module, "waits_for_processes", False)
