"""Twenty iterations of every rule on one, two and four processes, for test_processes.py; the argument is a folder."""

import logging
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.multiprocessing import start_processes

from helpers import join_processes, unused_port
from pcgan_lightning.callbacks import AdaptivePreconditioning, FixedPreconditioning, SVDParametrization
from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.games import (
    JARE,
    ConOpt,
    CostLinearization,
    ExtraGradient,
    LinearDual,
    ScoreLinearization,
    SimGD,
    SymplecticGradientAdjustment,
)
from pcgan_lightning.losses import (
    DOptimalPenalty,
    GradientPenalty,
    HingeLoss,
    LeastSquaresLoss,
    NonSaturatingLoss,
    R1Penalty,
    SaturatingLoss,
    WassersteinLoss,
)
from pcgan_lightning.modules import GAN, DualingGAN, SimultaneousGAN
from pcgan_lightning.networks import (
    CNNDiscriminator,
    CNNGenerator,
    LinearDiscriminator,
    MLPDiscriminator,
    MLPGenerator,
    RandomFourierFeatures,
)
from pcgan_lightning.optim import NSGDA, AdaDir, AdaNSGDA, Grafted, LinearDecay
from pcgan_lightning.spectra import preconditioners

ITERATIONS = 20
IMAGES = 8  # of one update, in all processes together
# Not all for all, which would take twice the time and agrees as well.
PRECISIONS = {1: ("32-true", "64-true"), 2: ("32-true",), 4: ("64-true",)}
SGD = partial(torch.optim.SGD, lr=0.01)


def mlps():
    shape = (1, 8, 8)
    return MLPGenerator(shape, latent_dim=4, width=16, hidden_layers=2), MLPDiscriminator(shape, 16, hidden_layers=2)


def cnns(batch_norm):
    return CNNGenerator(32, 1, 4, width=4, batch_norm=batch_norm), CNNDiscriminator(32, 1, width=4)


def both(optimizer):
    return {"generator_optimizer": optimizer, "discriminator_optimizer": optimizer}


def adaptive():
    # Thresholds amidst the condition numbers that come up, and frequent looks, so that the degrees change.
    return AdaptivePreconditioning(thresholds=[1.42, 1.6, 2.27, 2.46], every_n_steps=3, history=2)


def adaptive_to_a_goal():
    return AdaptivePreconditioning(goal=1.3, degrees=[1, 3, 5, 7, 9, 17], every_n_steps=3, history=2)


def scaled():
    return FixedPreconditioning(5, layers="all", scale="learnable")


def decay(optimizer):
    return LinearDecay(optimizer, total_iterations=ITERATIONS)


penalised = {"loss": WassersteinLoss(), "penalty": GradientPenalty()}
game = {"loss": NonSaturatingLoss(), **both(SGD)}
RULES = {
    "hinge": lambda: GAN(*mlps(), HingeLoss()),
    "non_saturating": lambda: GAN(*mlps(), NonSaturatingLoss()),
    "saturating": lambda: GAN(*mlps(), SaturatingLoss()),
    "wasserstein": lambda: GAN(*mlps(), WassersteinLoss()),
    "least_squares": lambda: GAN(*mlps(), LeastSquaresLoss()),
    "more_steps": lambda: GAN(*mlps(), discriminator_steps=2, generator_steps=3),
    "gradient_penalty": lambda: GAN(*mlps(), **penalised),
    "r1_penalty": lambda: GAN(*mlps(), NonSaturatingLoss(), penalty=R1Penalty()),
    "svd": lambda: GAN(*mlps(), penalty=DOptimalPenalty(), **both(SGD)),
    "nsgda": lambda: GAN(*mlps(), **both(partial(NSGDA, lr=0.01))),
    "nsgda_layer": lambda: GAN(*mlps(), **both(partial(NSGDA, lr=0.01, scope="layer"))),
    "ada_nsgda": lambda: GAN(*mlps(), **both(partial(AdaNSGDA, lr=1e-3))),
    "ada_dir": lambda: GAN(*mlps(), **both(partial(AdaDir, lr=1e-3))),
    "grafted": lambda: GAN(*mlps(), **both(lambda p: Grafted(p, torch.optim.Adam, SGD))),
    "learnable_scale": lambda: GAN(*mlps(), **both(SGD)),
    "simgd": lambda: SimultaneousGAN(*mlps(), method=SimGD(), **game),
    "conopt": lambda: SimultaneousGAN(*mlps(), method=ConOpt(1.0), **game),
    "jare": lambda: SimultaneousGAN(*mlps(), method=JARE(1.0), **game),
    "sga": lambda: SimultaneousGAN(*mlps(), method=SymplecticGradientAdjustment(), **game),
    "extragradient": lambda: SimultaneousGAN(*mlps(), method=ExtraGradient(), **game),
    "linear_dual": lambda: DualingGAN(
        mlps()[0], LinearDiscriminator(RandomFourierFeatures((1, 8, 8), 16, 8.0)), LinearDual(0.1, 3, tolerance=0.0)
    ),
    "score_linearization": lambda: DualingGAN(*mlps(), ScoreLinearization(0.01, 0.01, tolerance=0.0), steps=2),
    "cost_linearization": lambda: DualingGAN(*mlps(), CostLinearization(0.01, 0.01)),
    "apc": lambda: GAN(*cnns(False), ema_decay=0.9, generator_scheduler=decay),
    "batch_norm": lambda: GAN(*cnns(True), **both(SGD)),
    "batch_norm_jare": lambda: SimultaneousGAN(*cnns(True), method=JARE(0.1), **game),
    "uneven": lambda: GAN(*mlps(), **penalised, **both(SGD), discriminator_steps=2),
    "uneven_dualing": lambda: DualingGAN(*mlps(), ScoreLinearization(0.01, 0.01, tolerance=0.0)),
    "uneven_jare": lambda: SimultaneousGAN(*mlps(), method=JARE(1.0), **game),
}
RULES["apc_goal"] = RULES["apc"]
CALLBACKS = {"apc": adaptive, "apc_goal": adaptive_to_a_goal, "learnable_scale": scaled, "svd": SVDParametrization}


def rules(processes):
    """Which to run: on four processes (float64) no second one of a kind, on two (float32) none that rounds more."""
    alike = {"saturating", "least_squares", "nsgda_layer", "ada_dir", "grafted", "r1_penalty", "uneven_jare", "simgd"}
    alike |= {"sga", "extragradient", "linear_dual", "cost_linearization", "uneven_dualing"}
    # High degrees make 1e-4 of float32's rounding in 20 iterations of Adam.
    left_out = {2: {"apc_goal"}, 4: alike}.get(processes, set())
    return [rule for rule in RULES if rule not in left_out]


class UnevenLoader:
    """Somebody's loader, whose processes have parts of different sizes, equally many of each update's images."""

    SIZES: ClassVar = {1: [8], 2: [5, 3], 4: [3, 2, 2, 1]}

    def __init__(self, gan, rank, processes):
        source = torch.Generator().manual_seed(3)
        steps = getattr(gan, "discriminator_steps", 1)
        images = torch.randn(ITERATIONS, steps, IMAGES, *gan.discriminator.image_shape, generator=source)
        self.batches = [torch.cat([part.split(self.SIZES[processes])[rank] for part in parts]) for parts in images]

    def __len__(self):
        return ITERATIONS

    def __iter__(self):
        return iter(self.batches)


class Record(Callback):
    """Remembers the degrees after each iteration, the latents, and the sizes of the messages between processes."""

    def __init__(self):
        self.degrees, self.latents, self.messages = [], [], []

    def on_train_start(self, trainer, pl_module):
        pl_module.generator.register_forward_pre_hook(lambda module, inputs: self.latents.append(inputs[0].clone()))
        if trainer.world_size > 1:
            trainer.strategy.model.register_comm_hook(None, self._refuse)
            self._all_reduce, torch.distributed.all_reduce = torch.distributed.all_reduce, self._count

    def on_train_batch_end(self, trainer, pl_module, *args):
        layers = preconditioners(pl_module.discriminator).values()
        self.degrees.append([layer.polynomial.degree for layer in layers])

    def on_train_end(self, trainer, pl_module):
        if trainer.world_size > 1:
            torch.distributed.all_reduce = self._all_reduce

    def _refuse(self, state, bucket):
        raise AssertionError("DDP reduces by itself")

    def _count(self, tensor, *args, **kwargs):
        self.messages.append(tensor.numel())
        return self._all_reduce(tensor, *args, **kwargs)


def run(rule, precision, rank=0, processes=1):
    """Train, and return the module's state and what was recorded."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    gan, record = RULES[rule](), Record()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision=precision,
        sync_batchnorm=True,
        max_steps=ITERATIONS,
        callbacks=[CALLBACKS[rule](), record] if rule in CALLBACKS else [record],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if rule.startswith("uneven"):
        trainer.fit(gan, UnevenLoader(gan, rank, processes))
    else:
        size = gan.discriminator.image_shape[-1]
        data = ImageDataModule("digits", image_size=size, batch_size=IMAGES // processes, max_images=64, seed=0)
        trainer.fit(gan, datamodule=data)
    seen = {"degrees": record.degrees, "latents": record.latents, "messages": record.messages}
    return {"state": gan.state_dict(), **seen}


def validate(precision, processes=1):
    """Return the validation metrics of 13 images, which no number of processes divides evenly."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    gan = RULES["hinge"]()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision=precision,
        logger=False,
        enable_progress_bar=False,
    )
    data = ImageDataModule("digits", image_size=8, batch_size=3, max_images=13, validation_split="test")
    (metrics,) = trainer.validate(gan, datamodule=data, verbose=False)
    return metrics


def run_all(rank, processes, port, folder):
    """Train by every rule, as one of several processes that somebody else started."""
    if processes > 1:
        join_processes(rank, processes, port)
    results = {(rule, p): run(rule, p, rank, processes) for rule in rules(processes) for p in PRECISIONS[processes]}
    results |= {("validation", p): validate(p, processes) for p in PRECISIONS[processes]}
    torch.save(results, folder / f"{processes}_{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number in (1, 2, 4):
        start_processes(run_all, (number, unused_port(), Path(sys.argv[1])), number, start_method="fork")
