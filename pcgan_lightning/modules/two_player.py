"""What every game of a generator and a discriminator shares: latents, averaging, optimizers, counting, checkpoints."""

import math
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Optional

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from pcgan_lightning.evaluation_mode import evaluation_mode
from pcgan_lightning.losses import AdversarialLoss, HingeLoss
from pcgan_lightning.modules._processes import Share, check_strategy, mean_over_processes, shares_of
from pcgan_lightning.modules._randomness import RandomStreams
from pcgan_lightning.modules._recorded import RecordedModule, check_same_architecture
from pcgan_lightning.networks import ResNetDiscriminator, ResNetGenerator, SynchronizedBatchNorm
from pcgan_lightning.optim import LinearDecay
from pcgan_lightning.runs import AtomicCheckpointIO
from pcgan_lightning.spectra import match_preconditioning, original_parameters, power_iteration, preconditioners

EVALUATED = ("loss/discriminator", "loss/generator", "score/real", "score/fake")

# Lightning advises modules with manual optimization to save the weights before the step. Here a checkpoint is meant to
# hold the state after it, which is what a resumed run goes on from.
warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization")


class TwoPlayerModule(RecordedModule):
    """Base of the games: two networks, a loss, two optimizers, latents, weight averaging, checkpoints.

    A subclass defines ``training_step`` and calls :meth:`begin_iteration` first, :meth:`update` or :meth:`step` for
    each update (with ``counts=True`` exactly once) and :meth:`end_iteration` last. Then one iteration is one batch of
    the loader and one ``trainer.global_step``.

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
        super().__init__()
        self.automatic_optimization = False
        self.generator = generator if generator is not None else ResNetGenerator()
        self.discriminator = discriminator if discriminator is not None else ResNetDiscriminator()
        self.loss = loss if loss is not None else HingeLoss()
        if not hasattr(self.generator, "latent_dim"):
            raise ValueError(
                f"argument `generator` must have an attribute `latent_dim`, got {type(self.generator).__name__}"
            )
        if not 0.0 <= ema_decay < 1.0:
            raise ValueError(f"argument `ema_decay` must be in [0, 1), got {ema_decay}")
        _check_same_shape("generator", self.generator, "discriminator", self.discriminator)
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.generator_scheduler = generator_scheduler
        self.discriminator_scheduler = discriminator_scheduler
        self.ema_decay = ema_decay
        self.averaged_generator: Optional[AveragedModel] = None
        self._average_has_begun = False
        self._streams = RandomStreams()
        self._evaluated = 0
        self._evaluation = torch.zeros(len(EVALUATED) + 1)

    @property
    def twice_differentiated(self) -> bool:
        """Whether training takes derivatives of gradients by the parameters of both players."""
        return False

    # ------------------------------------------------------------------ sampling

    @property
    def latent_dim(self) -> int:
        """Size of the generator's input."""
        return self.generator.latent_dim

    def forward(self, latents: Tensor) -> Tensor:
        """Return images ``[N, C, H, W]`` of the averaged generator where there is one, else of the generator."""
        return (self.generator if self.averaged_generator is None else self.averaged_generator)(latents)

    @torch.no_grad()
    def sample_images(self, latents: Tensor, averaged: bool = True) -> Tensor:
        """Return images in [-1, 1] with the network in evaluation mode, leaving its mode as it was.

        Args:
            latents: ``[N, latent_dim]``.
            averaged: whether the moving average of the weights is used where the run has one.
        """
        network = self.averaged_generator if averaged and self.averaged_generator is not None else self.generator
        # Of the weights' dtype, which is not float32 with `precision="64-true"` and its like.
        dtype = next((p.dtype for p in network.parameters()), latents.dtype)
        with evaluation_mode(network):
            return network(latents.to(self.device, dtype))

    def fixed_latents(self, count: int, seed: int = 0) -> Tensor:
        """Return the first `count` of an endless row of latents ``[count, latent_dim]`` that the seed alone decides.

        With the default seed they are the same in every run, so that grids of different methods can be laid side by
        side.
        """
        source = torch.Generator().manual_seed(seed)
        # Row by row, so that more of them begin with the fewer.
        return torch.stack([torch.randn(self.latent_dim, generator=source) for _ in range(count)]).to(self.device)

    def draw_latents(self, share: Share) -> Tensor:
        """Return this process's slice, ``[share.count, latent_dim]``, of an update's fresh latents z ~ N(0, I)."""
        return self._streams.draw(torch.randn, share, self.latent_dim)

    def draw_uniform(self, share: Share) -> Tensor:
        """Return this process's slice, ``[share.count]``, of fresh numbers in [0, 1), of the same stream."""
        return self._streams.draw(torch.rand, share)

    # ------------------------------------------------------------------ one iteration

    def begin_iteration(self, batch_size: int, parts: int = 1) -> list[Share]:
        """Point the latents at this iteration's stream, and return this process's share of each part of the batch.

        Args:
            batch_size: of this process's batch.
            parts: updates among which the batch is divided, as by ``tensor_split``.
        """
        self._streams.begin_iteration(self.trainer, self.global_step)
        return shares_of(self.trainer, batch_size, parts)

    def update(self, optimizer: LightningOptimizer, loss: Tensor, counts: bool = False) -> None:
        """Backpropagate the loss, take the mean of the player's gradients over processes, and step.

        With several processes, a parameter must get a gradient in all of them or in none.

        Args:
            optimizer: one of ``self.optimizers()``.
            loss: scalar, weighed by this process's share.
            counts: whether this update advances ``trainer.global_step``. Lightning counts every call of its own
                optimizer's step (issue 17958); the strategy's step does the same work and does not count.
        """
        optimizer.zero_grad()
        # DDP's own reduction would wait for the gradients of both players.
        with getattr(self.trainer.strategy, "block_backward_sync", nullcontext)():
            self.manual_backward(loss)
        if self.trainer.world_size > 1:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_copy_(gradients, mean_over_processes(self.trainer, gradients))
        self.step(optimizer, counts)

    def step(self, optimizer: LightningOptimizer, counts: bool = False) -> None:
        """Step along the gradients that the parameters hold; the arguments are those of :meth:`update`."""
        if counts:
            optimizer.step()
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
        if self.averaged_generator is not None and optimizer is self.optimizers()[0]:
            self._update_average(self.averaged_generator)

    @torch.no_grad()
    def _update_average(self, averaged: AveragedModel) -> None:
        # What torch's update_parameters does, which waits for the device to read its counter, and without its copy of
        # the singular vectors: the averaged weights have their own.
        own, live = averaged.module, self.generator
        weights = list(own.parameters()), [p.detach() for p in live.parameters()]
        if self._average_has_begun:
            torch._foreach_lerp_(*weights, 1 - self.ema_decay)
        else:
            torch._foreach_copy_(*weights)
        averaged.n_averaged += 1
        self._average_has_begun = True
        pc_layers = preconditioners(own)
        vectors = {id(vector) for layer in pc_layers.values() for vector in (layer.u, layer.v)}
        for buffer, source in zip(own.buffers(), live.buffers(), strict=True):
            if id(buffer) not in vectors:
                buffer.copy_(source)
        for name, layer in preconditioners(live).items():
            pc_layers[name].polynomial = layer.polynomial
        power_iteration(averaged)

    def end_iteration(self, metrics: Mapping[str, Tensor]) -> None:
        """Step the schedulers and log the metrics, scalars weighed by this process's share, at this iteration's number.

        They go to the loggers at once, not after the iteration as Lightning would have it: a checkpoint of this
        iteration must not be ahead of them, or a run that is killed then goes on with a gap.
        """
        schedulers = self.lr_schedulers() or []
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name.startswith("loss/"), logger=False)
        interval = self.trainer.log_every_n_steps
        if interval and self.global_step % interval == 0:
            (means,) = mean_over_processes(self.trainer, [torch.stack(list(metrics.values()))])
            values = dict(zip(metrics, means.tolist(), strict=True))
            for logger in self.trainer.loggers:
                logger.log_metrics(values, step=self.global_step)

    def log(self, name: str, value: Any, *args: Any, logger: Optional[bool] = None, **kwargs: Any) -> None:
        """Log as any LightningModule does, at the number of the iteration in the loggers."""
        super().log(name, value, *args, logger=logger, **kwargs)
        if logger is not False and self.trainer.state.fn == TrainerFn.FITTING:
            # Lightning takes this entry as the x-axis; its own count starts one lower. Filled in on the device: a
            # number would be copied there, and the host would wait for it.
            iteration = torch.full((), float(self.trainer.fit_loop.total_batch_idx + 1), device=self.device)
            super().log(
                "step", iteration, on_step=kwargs.get("on_step"), on_epoch=kwargs.get("on_epoch"), reduce_fx="max"
            )

    def real_images(self, batch: Any) -> Tensor:
        """Return the images of a batch: a tensor, or the first entry of a sequence, or of a mapping.

        Raises:
            TypeError: for anything else, or images that are not floating point.
        """
        if isinstance(batch, Mapping):
            batch = next(iter(batch.values()))
        elif isinstance(batch, (tuple, list)):
            batch = batch[0]
        if not isinstance(batch, Tensor) or not batch.is_floating_point():
            found = batch.dtype if isinstance(batch, Tensor) else type(batch).__name__
            raise TypeError(f"the real batch must hold floating-point images in [-1, 1], got {found}")
        return batch

    # ------------------------------------------------------------------ the game

    def scores(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return the discriminator's raw scores ``[N]`` of real and ``[M]`` of generated images."""
        # Both passes see the same weights: g(SN(W)) is computed once for the two.
        with parametrize.cached():
            return self.discriminator(real), self.discriminator(fake)

    def losses(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the generator's and the discriminator's adversarial loss, without any penalty."""
        return self.loss.generator(fake_scores), self.loss.discriminator(real_scores, fake_scores)

    def game_losses(self, real: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of both players with one graph, which holds the parameters of both.

        Args:
            real: images ``[N, C, H, W]`` in [-1, 1].
            latents: ``[M, latent_dim]``.
        """
        return self.losses(*self.scores(real, self.generator(latents)))

    # ------------------------------------------------------------------ evaluation

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Evaluate both losses on held-out real images and fresh samples."""
        self._evaluate(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log their means over all images as ``val/...``."""
        self._log_evaluation("val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Evaluate both losses on held-out real images and fresh samples."""
        self._evaluate(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log their means over all images as ``test/...``."""
        self._log_evaluation("test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the discriminator's scores ``[N]`` of real images."""
        return self.discriminator(self.real_images(batch))

    def _evaluate(self, batch: Any, batch_idx: int) -> None:
        real = self.real_images(batch)
        if batch_idx == 0:
            self._evaluated, self._evaluation = 0, torch.zeros(len(EVALUATED) + 1, device=self.device)
        # Latents of their own, one to each image of the set, of which n processes take every n-th: an evaluation must
        # not move the training's stream, and any number of processes evaluates the same samples.
        numbers = range(self._evaluated, self._evaluated + len(real))
        world, rank = self.trainer.world_size, self.trainer.global_rank
        fake = self(torch.cat([self.fixed_latents(1, seed=rank + world * number) for number in numbers]))
        self._evaluated += len(real)
        real_scores, fake_scores = self.scores(real, fake)
        generator_loss, discriminator_loss = self.losses(real_scores, fake_scores)
        means = torch.stack([discriminator_loss, generator_loss, real_scores.mean(), fake_scores.mean()])
        self._evaluation += len(real) * torch.cat([means, means.new_ones(1)])

    def _log_evaluation(self, stage: str) -> None:
        # Not by Lightning's `sync_dist`, which rounds the number of images where processes have unequally many.
        sums = self.trainer.strategy.reduce(self._evaluation, reduce_op="sum")
        self.log_dict(dict(zip([f"{stage}/{name}" for name in EVALUATED], sums[:-1] / sums[-1], strict=True)))

    # ------------------------------------------------------------------ hooks of Lightning

    def setup(self, stage: str) -> None:
        """Write checkpoints whole, and forget an earlier run's randomness; a resumed checkpoint brings its own.

        Raises:
            ValueError: for several processes without ``ddp``.
        """
        strategy = self.trainer.strategy
        check_strategy(self.trainer)
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = AtomicCheckpointIO()
        if stage == "fit":
            # Asked for by `sync_batchnorm`; torch's own layer works where this condition does not hold.
            if getattr(strategy, "_layer_sync", None) and (
                strategy.root_device.type == "cpu" or self.twice_differentiated
            ):
                strategy._layer_sync = None
                SynchronizedBatchNorm.take_over(self)
            self._streams.begin_run()

    def configure_model(self) -> None:
        """Make the averaged generator, after callbacks had their chance to change the networks."""
        if self.ema_decay and self.averaged_generator is None:
            self.averaged_generator = AveragedModel(self.generator).requires_grad_(False)

    def configure_optimizers(self) -> Any:
        """Return the generator's and the discriminator's optimizer, in this order, and their schedulers."""
        players = (
            ("generator", self.generator, self.generator_optimizer, self.generator_scheduler),
            ("discriminator", self.discriminator, self.discriminator_optimizer, self.discriminator_scheduler),
        )
        optimizers, schedulers = [], []
        for name, network, make_optimizer, make_scheduler in players:
            optimizers.append(make_optimizer(list(original_parameters(network).items())))
            _check_rates(f"{name}_optimizer", optimizers[-1])
            if make_scheduler is not None:
                schedulers.append(self._scheduler(name, make_scheduler(optimizers[-1])))
        return optimizers, schedulers

    def _scheduler(self, name: str, scheduler: LRScheduler) -> LRScheduler:
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(f"argument `{name}_scheduler` must not need a metric, got ReduceLROnPlateau")
        if isinstance(scheduler, LinearDecay) and scheduler.total_iterations is None:
            if self.trainer.max_steps < 1:
                raise ValueError(
                    f"argument `{name}_scheduler` needs `total_iterations`, or a trainer with `max_steps`, got -1"
                )
            scheduler.total_iterations = self.trainer.max_steps
        return scheduler

    def on_fit_start(self) -> None:
        """Check that the data has the networks' image shape, and that the average has the generator's PC-layers."""
        if self.averaged_generator is not None:
            match_preconditioning(self.averaged_generator.module, self.generator.state_dict())
        if self.trainer.datamodule is not None:
            _check_same_shape("data", self.trainer.datamodule, "discriminator", self.discriminator)

    def on_train_start(self) -> None:
        """Read from the averaged generator, a resumed one's included, whether it has taken up any weights."""
        self._average_has_begun = self.averaged_generator is not None and bool(self.averaged_generator.n_averaged)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the latents' seed and every process's global random state of torch."""
        checkpoint.update(self._streams.state_dict(self.trainer))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Bring the networks into the checkpoint's form: its PC-layers, whichever callback made them."""
        self._streams.load_state_dict(checkpoint)
        match_preconditioning(self, checkpoint["state_dict"])
        check_same_architecture(self.state_dict(), checkpoint["state_dict"])

    def record_arguments(self, **arguments: Any) -> None:
        """Keep the constructor's arguments in the checkpoint, networks and loss included where they tell theirs."""
        self.record({"generator": self.generator, "discriminator": self.discriminator, "loss": self.loss}, arguments)


def _check_rates(argument: str, optimizer: Optimizer) -> None:
    rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
    if not all(math.isfinite(rate) for rate in rates):
        raise ValueError(f"argument `{argument}` must have a finite learning rate, its `lr`, got {rates}")


def _check_same_shape(first: str, a: object, second: str, b: object) -> None:
    shapes = [tuple(x.image_shape) if hasattr(x, "image_shape") else None for x in (a, b)]
    if None not in shapes and shapes[0] != shapes[1]:
        raise ValueError(
            f"{first} and {second} must have the same image shape (channels, height, width), "
            f"got {shapes[0]} and {shapes[1]}"
        )
