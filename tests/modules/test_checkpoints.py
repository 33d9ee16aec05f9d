"""Averages, and checkpoints of both kinds of game: they open alone, and a resumed run is the uninterrupted one."""

import pkgutil
from types import SimpleNamespace

import pytest
import torch
from helpers.short_fits import History, assert_same, fit, small_game, small_simultaneous_game
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from pcgan_lightning.callbacks import AdaptivePreconditioning, FixedPreconditioning, SpectrumLogger
from pcgan_lightning.cli.generate import load_gan
from pcgan_lightning.games import (
    JARE,
    ConOpt,
    CostLinearization,
    ExtraGradient,
    ScoreLinearization,
    SimGD,
    SymplecticGradientAdjustment,
)
from pcgan_lightning.losses import GradientPenalty, WassersteinLoss
from pcgan_lightning.modules import GAN, DualingGAN, SimultaneousGAN
from pcgan_lightning.networks import CNNDiscriminator
from pcgan_lightning.optim import NSGDA, AdaDir, AdaNSGDA, Grafted, LinearDecay
from pcgan_lightning.spectra import preconditioners, singular_values

KINDS = {
    GAN: {"penalty": GradientPenalty(3.0)},
    SimultaneousGAN: {"method": ConOpt(3.0, "discriminator")},
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    """Eight iterations with everything that a checkpoint is to hold."""
    folder, history = tmp_path_factory.mktemp("run"), History()
    schedules = dict.fromkeys(("generator_scheduler", "discriminator_scheduler"), LinearDecay)
    gan = small_game(request.param, loss=WassersteinLoss(), ema_decay=0.9, **schedules, **KINDS[request.param])
    fit(folder, gan, 8, history, FixedPreconditioning(degree=7)).save_checkpoint(folder / "x.ckpt")
    return SimpleNamespace(kind=request.param, gan=gan, history=history, path=folder / "x.ckpt")


def test_average_of_generator_weights(trained):
    gan, (expected, *others) = trained.gan, trained.history.weights
    for weights in others:  # torch's AveragedModel starts with the first weights it is shown
        expected = 0.9 * expected + 0.1 * weights
    torch.testing.assert_close(next(gan.averaged_generator.parameters()), expected)
    latents = gan.fixed_latents(3)
    samples = gan.sample_images(latents)
    assert gan.generator.training
    torch.testing.assert_close(samples, gan.averaged_generator.eval()(latents))
    assert not torch.equal(samples, gan.sample_images(latents, averaged=False))


def test_learning_rate_decays_over_the_run(trained):
    expected = [2e-4 * f for f in (1, 1, 1, 1, 1, 0.75, 0.5, 0.25)]
    torch.testing.assert_close(torch.tensor(trained.history.rates), torch.tensor([expected, expected]).T)


def test_checkpoint_opens_without_callbacks(trained):
    gan, images = trained.gan, torch.rand(4, 1, 32, 32) * 2 - 1
    latents = gan.fixed_latents(2)
    for loaded in (trained.kind.load_from_checkpoint(trained.path), load_gan(trained.path)[0]):
        assert type(loaded) is trained.kind
        assert torch.equal(loaded.discriminator.eval()(images), gan.discriminator.eval()(images))
        assert torch.equal(loaded.sample_images(latents), gan.sample_images(latents))
        assert isinstance(loaded.loss, WassersteinLoss)
        assert {p.polynomial.degree for p in preconditioners(loaded.discriminator).values()} == {7, 1}
        for name, part in KINDS[trained.kind].items():
            assert type(getattr(loaded, name)) is type(part)
            assert getattr(loaded, name).init_args == part.init_args


def test_checkpoint_of_another_architecture(trained, tmp_path):
    wider = small_game(trained.kind, discriminator=CNNDiscriminator(channels=1, width=4), ema_decay=0.9)
    with pytest.raises(ValueError, match=r"architecture, but 'disc.*' has shape \(.*\) there and \(.*\) here"):
        fit(tmp_path, wider, 9, ckpt_path=trained.path)
    with pytest.raises(ValueError, match="is only in the checkpoint"):
        trained.kind.load_from_checkpoint(trained.path, discriminator=nn.Flatten())


def test_checkpoints_of_former_names():
    """The methods stood in another file once."""
    for kind in (SimGD, ConOpt, JARE):
        assert pkgutil.resolve_name(f"pcgan_lightning.games.regularizers.{kind.__name__}") is kind


def test_plain_checkpoint_resumes_with_preconditioning(tmp_path):
    fit(tmp_path, small_game(ema_decay=0.9), 2).save_checkpoint(tmp_path / "x.ckpt")
    gan = small_game(ema_decay=0.9)
    both = [FixedPreconditioning(degree=3, target=player) for player in ("generator", "discriminator")]
    fit(tmp_path, gan, 4, *both, ckpt_path=tmp_path / "x.ckpt")
    assert preconditioners(gan.discriminator)
    assert preconditioners(gan.generator).keys() == preconditioners(gan.averaged_generator.module).keys() != set()


def test_average_of_a_preconditioned_generator(tmp_path):
    """The average is normalised by its own spectral norm, and its polynomials follow those of the generator."""
    gan = small_game(ema_decay=0.9, generator_optimizer=lambda p: torch.optim.Adam(p, lr=0.02))
    apc = AdaptivePreconditioning((1e-3,), degrees=(1, 7), every_n_steps=10, target="generator", layers="all")
    fit(tmp_path, gan, 25, apc).save_checkpoint(tmp_path / "x.ckpt")
    layers = preconditioners(gan.averaged_generator.module)
    assert {p.polynomial.degree for p in layers.values()} == {7}
    # Power iteration follows weights that move by a tenth of the generator's steps.
    for name, values in singular_values(gan.averaged_generator.module, after_polynomial=False).items():
        assert 0.99 < values[0] < 1.1, name
    latents = gan.fixed_latents(3)
    assert torch.equal(GAN.load_from_checkpoint(tmp_path / "x.ckpt").sample_images(latents), gan.sample_images(latents))
    # The singular vectors of the average are its own.
    for layer in preconditioners(gan.generator).values():
        layer.u.fill_(torch.nan)
        layer.v.fill_(torch.nan)
    gan.averaged_generator.update(gan.generator)
    assert all(layer.u.isfinite().all() for layer in layers.values())


RULES = {
    "NSGDA": lambda p: NSGDA(p, lr=0.02, scope="layer"),
    "AdaNSGDA": lambda p: AdaNSGDA(p, lr=0.01, betas=(0.0, 0.9), scope="layer"),
    "AdaDir": lambda p: AdaDir(p, lr=0.001, betas=(0.5, 0.9), oracle="paper"),
    "Grafted": lambda p: Grafted(p, lambda q: torch.optim.Adam(q, lr=0.01), lambda q: torch.optim.SGD(q, lr=1.0)),
    "Adam": lambda p: torch.optim.Adam(p, lr=2e-4, betas=(0.0, 0.9)),
}
METHODS = {
    "SimGD": SimGD(),
    "ConOpt": ConOpt(3.0),
    "JARE": JARE(3.0),
    "half JARE": JARE(3.0, "generator"),
    "SGA": SymplecticGradientAdjustment(3.0),
    "ExtraGradient": ExtraGradient(),
}
DUALS = {"ScoreLinearization": ScoreLinearization(1e-2), "CostLinearization": CostLinearization(1e-2)}


def make_game(name):
    decay = {f"{p}_scheduler": lambda o: LinearDecay(o, total_iterations=30) for p in ("generator", "discriminator")}
    torch.manual_seed(0)
    if name in METHODS:
        return small_simultaneous_game(method=METHODS[name], ema_decay=0.5, **decay)
    if name in DUALS:
        return small_game(DualingGAN, method=DUALS[name], steps=2, ema_decay=0.5, **decay)
    both = {"generator_optimizer": RULES[name], "discriminator_optimizer": RULES[name], **decay}
    return small_game(
        loss=WassersteinLoss(), penalty=GradientPenalty(3.0), discriminator_steps=2, ema_decay=0.5, **both
    )


class SaveAt(Callback):
    """Saves inside the loop, as ModelCheckpoint does."""

    def __init__(self, path, iteration):
        self.path, self.iteration = path, iteration

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.iteration:
            trainer.save_checkpoint(self.path)


def run(folder, name, iterations, *callbacks, **kwargs):
    gan = make_game(name)
    watching = [
        AdaptivePreconditioning(thresholds=(1.4, 1.6, 1.8, 2.0), every_n_steps=3, history=2, layers="all"),
        SpectrumLogger(every_n_steps=5),
    ]
    logger = CSVLogger(folder, name="log", version="")
    trainer = fit(folder, gan, iterations, *watching, *callbacks, logger=logger, log_every_n_steps=1, **kwargs)
    header, *lines = [line.split(",") for line in (folder / "log/metrics.csv").read_text().splitlines()]
    rows = [{k: v for k, v in zip(header, line, strict=True) if v} for line in lines]
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    schedules = [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs]
    states = gan.state_dict(), optimizers, [callback.state_dict() for callback in watching], schedules
    return SimpleNamespace(gan=gan, states=states, rows=rows, save=trainer.save_checkpoint)


# Epochs have 4 or 8 iterations.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how", "at"),
    [
        *[("Adam", how, at) for how in ("inside", "stopped") for at in (11, 12)],
        *[(name, "stopped", 9) for name in RULES if name != "Adam"],
        *[(name, "inside", 9) for name in (*METHODS, *DUALS)],
    ],
)
def test_resumed_run_is_bit_identical(tmp_path, name, how, at):
    path = tmp_path / "x.ckpt"
    whole = run(tmp_path / "whole", name, 20, *([SaveAt(path, at)] if how == "inside" else []))
    if how == "stopped":
        run(tmp_path / "first", name, at).save(path)
    resumed = run(tmp_path / "second", name, 20, ckpt_path=path)
    assert_same(resumed.states, whole.states)
    assert resumed.states[-1] == [20, 20]
    assert resumed.rows == [row for row in whole.rows if int(float(row["step"])) > at]
    assert all(value.isfinite().all() for value in whole.gan.state_dict().values())
    if name == "Adam":
        degrees = {row[key] for row in whole.rows for key in row if key.startswith("degree/")}
        assert len(degrees) > 1, "the run must switch polynomials for this test to mean anything"
