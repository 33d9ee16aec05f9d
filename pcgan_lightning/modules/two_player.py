"""How every game of a generator and a discriminator is trained: its iterations, latents, optimizers, checkpoints."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Optional

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.games import PLAYERS, Player
from pcgan_lightning.losses import AdversarialLoss
from pcgan_lightning.modules._averaging import MovingAverage
from pcgan_lightning.modules._game import GameModule, check_same_shape
from pcgan_lightning.modules._metrics import publish
from pcgan_lightning.modules._optimizers import make_optimizer, make_scheduler, parameters_of
from pcgan_lightning.modules._options import Asked, apply_changes, check_changes, options_of
from pcgan_lightning.modules._processes import Share, mean_over_processes, shares_of
from pcgan_lightning.modules._randomness import RandomStreams
from pcgan_lightning.modules._recorded import check_same_architecture
from pcgan_lightning.modules.strategies import check_plain_ddp, check_strategy
from pcgan_lightning.networks import SynchronizedBatchNorm
from pcgan_lightning.runs import AtomicCheckpointIO
from pcgan_lightning.spectra import match_preconditioning

# Lightning advises modules with manual optimization to save the weights before the step. Here a checkpoint is meant to
# hold the state after it, which is what a resumed run goes on from.
warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization")


class TwoPlayerModule(GameModule, ABC):
    """Base of the games: two networks, a loss, two optimizers, latents, weight averaging, checkpoints.

    A subclass defines :meth:`play`, one iteration of the game: it draws latents by :meth:`draw_latents`, moves the
    players by :meth:`update` or :meth:`step`, in whatever order and number, and returns what to log. One iteration is
    one batch of the loader and one ``trainer.global_step``.

    Randomness is counter-based: the latents of an iteration depend on the seed and its number alone, so a resumed run
    continues the same stream, and n processes draw what one would on the whole batch, each taking its slice.

    On several processes (any kind of Lightning's ``ddp``) an update exchanges its own player's gradients, once, and
    nothing of the other player. Losses must be means over samples; then n processes compute what one would on the
    whole batch, however uneven their parts are. With ``Trainer(sync_batchnorm=True)`` that holds for batch
    normalisation too, on CPU as well and for methods with second derivatives.

    Args:
        generator: latents ``[N, latent_dim]`` -> images ``[N, C, H, W]`` in [-1, 1]; needs an attribute
            ``latent_dim``. Default: ``ResNetGenerator()`` for 32x32 RGB.
        discriminator: images -> raw scores ``[N]``, without any normalisation. Default: ``ResNetDiscriminator()``.
        loss: the adversarial loss. Default: hinge.
        generator_optimizer: function of the generator's named parameters that makes a torch optimizer.
        discriminator_optimizer: the same of the discriminator.
        generator_scheduler: function of the generator's optimizer; stepped once an iteration. None: constant.
        discriminator_scheduler: the same of the discriminator.
        ema_decay: decay in [0, 1) of the exponential moving average of the generator's weights, updated at every
            generator update; 0 switches it off. The average is what samples are drawn from.

    Raises:
        ValueError: for arguments out of range or networks of different image shapes.
    """

    def __init__(
        self,
        generator: Optional[nn.Module] = None,
        discriminator: Optional[nn.Module] = None,
        loss: Optional[AdversarialLoss] = None,
        generator_optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=2e-4, betas=(0.0, 0.9)),
        discriminator_optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=2e-4, betas=(0.0, 0.9)),
        generator_scheduler: Optional[LRSchedulerCallable] = None,
        discriminator_scheduler: Optional[LRSchedulerCallable] = None,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__(generator, discriminator, loss)
        self.automatic_optimization = False
        if not 0.0 <= ema_decay < 1.0:
            raise ValueError(f"argument `ema_decay` must be in [0, 1), got {ema_decay}")
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.generator_scheduler = generator_scheduler
        self.discriminator_scheduler = discriminator_scheduler
        self.ema_decay = ema_decay
        self._streams = RandomStreams()
        self._iteration_is_counted = False
        self._options: dict[str, Asked] = {}  # of both optimizers, as asked for
        self._former_options: dict[str, Asked] = {}  # the same of the checkpoint that a fit goes on from

    @property
    def twice_differentiated(self) -> bool:
        """Whether training takes derivatives of gradients by the parameters of both players."""
        return False

    @property
    def updates_per_batch(self) -> int:
        """Updates among which a batch of the loader is divided, as by ``tensor_split``."""
        return 1

    @abstractmethod
    def play(self, real: Tensor, shares: Sequence[Share]) -> Mapping[str, Tensor]:
        """Play one iteration.

        Args:
            real: the images of this process's batch ``[N, C, H, W]``.
            shares: this process's share of each of the :attr:`updates_per_batch` parts of the batch.

        Returns:
            What to log by name: scalars, weighed by this process's share.
        """

    @override
    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = self.real_images(batch)
        self._streams.begin_iteration(self.trainer, self.global_step)
        self._iteration_is_counted = False
        self._end_iteration(self.play(real, shares_of(self.trainer, len(real), self.updates_per_batch)))

    def optimizer_of(self, player: Player) -> LightningOptimizer:
        """Return a player's optimizer."""
        return dict(zip(PLAYERS, self.optimizers(), strict=True))[player]

    @contextmanager
    def turn_of(self, player: Player) -> Iterator[None]:
        """Let only this player's parameters require gradients meanwhile."""
        own = {id(p) for p in parameters_of(self.optimizer_of(player))}
        everyone = [p for optimizer in self.trainer.optimizers for p in parameters_of(optimizer)]
        others = [p for p in everyone if p.requires_grad and id(p) not in own]
        for parameter in others:
            parameter.requires_grad_(False)
        yield
        for parameter in others:
            parameter.requires_grad_(True)

    def update(self, player: Player, loss: Tensor) -> None:
        """Backpropagate the loss, take the mean of the player's gradients over processes, and step.

        With several processes, a parameter must get a gradient in all of them or in none.

        Args:
            player: whose parameters are moved.
            loss: scalar, weighed by this process's share.
        """
        optimizer = self.optimizer_of(player)
        optimizer.zero_grad()
        # DDP's own reduction would wait for the gradients of both players.
        with getattr(self.trainer.strategy, "block_backward_sync", nullcontext)():
            self.manual_backward(loss)
        if self.trainer.world_size > 1:
            gradients = [p.grad for p in parameters_of(optimizer) if p.grad is not None]
            torch._foreach_copy_(gradients, mean_over_processes(self.trainer, gradients))
        self.step(player)

    def descend(self, player: Player, parameters: Iterable[Tensor], gradients: Iterable[Tensor]) -> None:
        """Step along gradients that are those of all processes."""
        self.optimizer_of(player).zero_grad()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # A tensor of its own, as backward() leaves one: optimizers and clipping may work in place.
            parameter.grad = gradient.clone()
        self.step(player)

    def step(self, player: Player) -> None:
        """Step along the gradients that the player's parameters hold."""
        optimizer = self.optimizer_of(player)
        if self._iteration_is_counted:
            # Lightning counts every call of its own optimizer's step (issue 17958); this does the same work, uncounted.
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
        else:
            optimizer.step()
            self._iteration_is_counted = True
        if self.averaged_generator is not None and player == "generator":
            self.averaged_generator.update(self.generator)

    def draw_latents(self, share: Share) -> Tensor:
        """Return this process's slice, ``[share.count, latent_dim]``, of an update's fresh latents z ~ N(0, I)."""
        return self._streams.draw(torch.randn, share, self.latent_dim)

    def draw_uniform(self, share: Share) -> Tensor:
        """Return this process's slice, ``[share.count]``, of fresh numbers in [0, 1), of the same stream."""
        return self._streams.draw(torch.rand, share)

    def _end_iteration(self, metrics: Mapping[str, Tensor]) -> None:
        """Step the schedulers and publish the metrics, scalars weighed by this process's share."""
        schedulers: Any = self.lr_schedulers() or []  # none of them needs a metric, see `make_scheduler`
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()
        publish(self.trainer, metrics)

    @override
    def log(
        self, name: str, value: Any, prog_bar: bool = False, logger: Optional[bool] = None, *args: Any, **kwargs: Any
    ) -> None:
        """Log as any LightningModule does, at the number of the iteration in the loggers."""
        super().log(name, value, prog_bar, logger, *args, **kwargs)
        if logger is not False and self.trainer.state.fn == TrainerFn.FITTING:
            # Lightning takes this entry as the x-axis; its own count starts one lower. Filled in on the device: a
            # number would be copied there, and the host would wait for it.
            iteration = torch.full((), float(self.trainer.fit_loop.total_batch_idx + 1), device=self.device)
            super().log(
                "step", iteration, on_step=kwargs.get("on_step"), on_epoch=kwargs.get("on_epoch"), reduce_fx="max"
            )

    def setup(self, stage: str) -> None:
        """Write checkpoints whole, and forget an earlier run's randomness; a resumed checkpoint brings its own.

        Raises:
            ValueError: for a strategy that does not train exactly.
        """
        strategy = self.trainer.strategy
        check_strategy(self.trainer)
        check_plain_ddp(self.trainer)
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = AtomicCheckpointIO()
        if stage == "fit":
            # Asked for by `sync_batchnorm`; torch's own layer works where this condition does not hold.
            if (
                isinstance(strategy, ParallelStrategy)
                and strategy._layer_sync
                and (strategy.root_device.type == "cpu" or self.twice_differentiated)
            ):
                strategy._layer_sync = None
                SynchronizedBatchNorm.take_over(self)
            self._streams.begin_run()

    def configure_model(self) -> None:
        """Make the averaged generator, after callbacks had their chance to change the networks."""
        if self.ema_decay and self.averaged_generator is None:
            self.averaged_generator = MovingAverage(self.generator, self.ema_decay)

    @override
    def configure_optimizers(self) -> Any:
        optimizers, schedulers = [], []
        for player in PLAYERS:
            make, schedule = getattr(self, f"{player}_optimizer"), getattr(self, f"{player}_scheduler")
            optimizers.append(make_optimizer(player, getattr(self, player), make))
            self._options[player] = options_of(optimizers[-1])
            if player in self._former_options:
                check_changes(player, self._former_options[player], self._options[player])
            schedulers += make_scheduler(player, optimizers[-1], schedule, self.trainer.max_steps)
        return optimizers, schedulers

    def on_fit_start(self) -> None:
        """Check that the data has the networks' image shape, and that the average has the generator's PC-layers."""
        if self.averaged_generator is not None:
            self.averaged_generator.take_form_of(self.generator)
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it later
        if data is not None:
            check_same_shape("data", data, "discriminator", self.discriminator)

    def apply_options(self, former: Mapping[str, Asked]) -> None:
        """Let the optimizers' options that differ from a checkpoint's have their new values, when its state is loaded.

        Args:
            former: the checkpoint's ``optimizer_options``, empty in those of old releases.
        """
        schedulers: list[Any] = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        for player, optimizer in zip(PLAYERS, self.trainer.optimizers, strict=True):
            if player in former:
                apply_changes(optimizer, schedulers, former[player], self._options[player])

    @override
    def on_train_start(self) -> None:
        """Let changed options take effect."""
        self.apply_options(self._former_options)
        self._former_options = {}
        if self.averaged_generator is not None:
            self.averaged_generator.begin_run()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the latents' seed and every process's global random state of torch."""
        checkpoint.update(self._streams.state_dict(self.trainer))
        checkpoint["optimizer_options"] = dict(self._options)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Bring the networks into the checkpoint's form: its PC-layers, whichever callback made them."""
        super().on_load_checkpoint(checkpoint)
        self._streams.load_state_dict(checkpoint)
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._former_options = checkpoint.get("optimizer_options", {})
        for name, network in self.named_children():  # each computes its own PC-layers together
            match_preconditioning(network, checkpoint["state_dict"], f"{name}.")
        check_same_architecture(self.state_dict(), checkpoint["state_dict"])

    def record_arguments(self, **arguments: Any) -> None:
        """Keep the constructor's arguments in the checkpoint, networks and loss included where they tell theirs."""
        self.record({"generator": self.generator, "discriminator": self.discriminator, "loss": self.loss}, arguments)
