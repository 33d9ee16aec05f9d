"""Alternating updates: counting, by hand, penalties, randomness; and what no game accepts."""

import copy
import math

import pytest
import torch
from helpers.short_fits import History, fit, recorded, sgd, small_game, small_simultaneous_game
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from pcgan_lightning.callbacks import FixedPreconditioning, GANProgressBar
from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.games import JARE
from pcgan_lightning.losses import GradientPenalty, LeastSquaresLoss, WassersteinLoss
from pcgan_lightning.modules import GAN
from pcgan_lightning.modules._processes import Share
from pcgan_lightning.networks import CNNDiscriminator, MLPDiscriminator, MLPGenerator
from pcgan_lightning.optim import NSGDA, LinearDecay
from pcgan_lightning.spectra import precondition, preconditioners


class Watch(Callback):
    """Keeps what callbacks and bars could read after each iteration."""

    def __init__(self):
        self.found, self.shown = [], []

    def on_train_batch_end(self, trainer, *_):
        self.found.append(trainer.callback_metrics["loss/generator"])
        self.shown.append(trainer.progress_bar_metrics.get("loss/generator"))


@pytest.mark.parametrize(("bar", "drawn"), [(GANProgressBar(2), {2, 4, 5}), (TQDMProgressBar(), {1, 2, 3, 4, 5})])
def test_losses_are_there_for_callbacks_always_and_for_bars_when_drawn(tmp_path, bar, drawn):
    watch = Watch()
    fit(tmp_path, small_game(**sgd()), 5, watch, bar, enable_progress_bar=True)
    assert len({loss.item() for loss in watch.found}) == 5
    assert not any(loss.requires_grad for loss in watch.found)
    fresh = {n for n in range(1, 6) if watch.shown[n - 1] == watch.found[n - 1].item()}
    assert fresh == drawn


@pytest.mark.parametrize(
    ("make", "turn"),
    [
        (lambda **k: GAN(**k), "dg"),
        (lambda **k: GAN(discriminator_steps=5, **k), "dddddg"),
        (lambda **k: GAN(discriminator_steps=2, generator_steps=3, **k), "ddggg"),
        (lambda **k: GAN(discriminator_steps=2, discriminator_first=False, **k), "gdd"),
        (lambda **k: small_simultaneous_game(method=JARE(), **k), "gd"),
    ],
)
def test_one_iteration_is_one_turn_of_each_player(tmp_path, make, turn):
    """The trainer, the log and the names of checkpoints count iterations; every D update sees fresh images."""
    networks = MLPGenerator((1, 8, 8), 4, width=4), MLPDiscriminator((1, 8, 8), width=4)
    gan, history = make(generator=networks[0], discriminator=networks[1]), History()
    save = ModelCheckpoint(tmp_path / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=5)
    logger = CSVLogger(tmp_path, name="run", version="")
    data = ImageDataModule("digits", image_size=8, batch_size=2, max_images=20 * turn.count("d"), seed=0)
    reals, latents = recorded(gan)
    fit(tmp_path, gan, 10, history, save, data=data, enable_checkpointing=True, logger=logger, log_every_n_steps=5)
    assert history.order == turn * 10
    assert history.iterations == list(range(1, 11))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step=5.ckpt", "step=10.ckpt"}
    assert torch.load(tmp_path / "checkpoints/step=10.ckpt", weights_only=True)["global_step"] == 10
    header, *rows = [line.split(",") for line in (tmp_path / "run/metrics.csv").read_text().splitlines()]
    assert {"loss/discriminator", "loss/generator", "score/fake", "score/real"} <= set(header)
    assert [int(float(row[header.index("step")])) for row in rows] == [5, 10]
    # As many as one pass over the images holds: each once.
    everything = data.real_images().load().unique(dim=0)
    assert sum(map(len, reals)) == 20 * turn.count("d")
    assert len(torch.cat(reals).unique(dim=0)) == len(everything)
    assert len(latents) == (1 if turn == "gd" else len(turn)) * 10
    assert len(torch.cat(latents).unique(dim=0)) == sum(map(len, latents))


def test_updates_by_hand(tmp_path):
    """Two iterations of plain SGD, recomputed with torch alone."""
    gan = small_game(loss=LeastSquaresLoss(), **sgd(0.1))
    generator, discriminator = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    reals, latents = recorded(gan)
    fit(tmp_path, gan, 2)

    def descend(loss, network):
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        for p, g in zip(network.parameters(), gradients, strict=True):
            p.data -= 0.1 * g

    for real, (z_d, z_g) in zip(reals, (latents[:2], latents[2:]), strict=True):
        with torch.no_grad():
            fake = generator(z_d)
        descend(((discriminator(real) - 1) ** 2).mean() / 2 + (discriminator(fake) ** 2).mean() / 2, discriminator)
        descend(((discriminator(generator(z_g)) - 1) ** 2).mean() / 2, generator)
    for own, expected in ((gan.generator, generator), (gan.discriminator, discriminator)):
        for p, q in zip(own.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)  # float32, other order of additions


def test_penalty_is_part_of_the_loss_and_logged(tmp_path, monkeypatch):
    optimizers = dict.fromkeys(("generator_optimizer", "discriminator_optimizer"), lambda p: NSGDA(p, lr=0.02))
    gan = small_game(loss=WassersteinLoss(), penalty=GradientPenalty(3.0), discriminator_steps=2, **optimizers)
    losses, penalties, adversarial = [], [], []
    update, penalty, plain_loss = GAN.update, gan.penalty, gan.discriminator_loss

    def recorded_update(self, player, loss):
        losses.append(loss.item())
        update(self, player, loss)

    def recorded_penalty(*arguments):
        penalties.append((penalty(*arguments), *arguments))
        return penalties[-1][0]

    monkeypatch.setattr(GAN, "update", recorded_update)
    gan.penalty = recorded_penalty
    gan.discriminator_loss = lambda *images: adversarial.append(plain_loss(*images)) or adversarial[-1]
    logged = fit(tmp_path, gan, 1).callback_metrics
    assert logged["loss/penalty"].item() == pytest.approx(sum(p[0].item() for p in penalties) / 2, rel=1e-5)
    assert logged["loss/discriminator"].item() == pytest.approx(sum(losses[:2]) / 2, rel=1e-5)
    (value, _, real, fake, mixing), (_, _, _, _, other) = penalties
    assert losses[0] == pytest.approx(adversarial[0][0].item() + value.item(), rel=1e-5)
    assert real.shape == fake.shape == (4, 1, 32, 32)
    assert 0 <= mixing.min() < mixing.max() < 1
    assert not torch.equal(mixing, other)


class HostReads(TorchDispatchMode):
    """Counts what makes the host wait for an accelerator: reading a number that the device computes."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in ("_local_scalar_dense", "is_nonzero", "equal.default")):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def test_no_iteration_waits_for_the_device(tmp_path, monkeypatch):
    step, reads = GAN.training_step, HostReads()

    def watched(self, batch, batch_idx):
        with reads:
            return step(self, batch, batch_idx)

    monkeypatch.setattr(GAN, "training_step", watched)
    gan = small_game(ema_decay=0.9, **sgd())  # torch's Adam has counters of its own, on the host
    precondition(gan.discriminator, degree=3)
    fit(tmp_path, gan, 3)
    assert gan.averaged_generator.n_averaged == 3
    assert reads.found == []


def test_latents_follow_the_seed_and_processes_slice_them(tmp_path):
    gan = small_game()
    _, drawn = recorded(gan)
    for seed in (1, 2, 1):
        trainer = fit(tmp_path, gan, 1, seed=seed)
    first, second, again = drawn[0], drawn[2], drawn[4]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)

    def draw(world, rank, count):
        gan._streams.begin_iteration(trainer, gan.global_step)
        return gan.draw_latents(Share(count, rank * count, world * count, world))

    gan.trainer = trainer
    assert torch.equal(torch.cat([draw(2, 0, 3), draw(2, 1, 3)]), draw(1, 0, 6))


def test_bf16_autocast_keeps_spectra_in_float32(tmp_path):
    gan = small_game()
    fit(tmp_path, gan, 3, FixedPreconditioning(degree=9), precision="bf16-mixed")
    layer = gan.discriminator.get_submodule(next(iter(preconditioners(gan.discriminator))))
    weight = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, weight)
    assert weight.dtype == torch.float32


def loader(count, batch_size):
    return DataLoader(torch.rand(count, 1, 32, 32) * 2 - 1, batch_size=batch_size)


def test_own_loader_is_cut_into_updates(tmp_path):
    history = History()
    fit(tmp_path, small_game(discriminator_steps=5), 2, history, data=loader(32, 13))  # not a multiple of 5
    assert history.order == "dddddg" * 2


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        ({"discriminator_steps": 0}, None, "argument `discriminator_steps` must be .* got 0"),
        ({"generator_steps": -1}, None, "argument `generator_steps` must be .* got -1"),
        ({"ema_decay": 1.0}, None, "argument `ema_decay` must be .* got 1.0"),
        ({"generator": nn.Identity()}, None, "argument `generator` must have an attribute `latent_dim`, got Identity"),
        ({"discriminator": CNNDiscriminator(channels=3, width=2)}, None, r"\(1, 32, 32\) and \(3, 32, 32\)$"),
        ({}, lambda: ImageDataModule("digits", image_size=8), "data and discriminator must have the same image shape"),
        ({"discriminator_steps": 3}, lambda: loader(8, 2), "`discriminator_steps` = 3 images, .* got 2"),
        (sgd(math.inf), None, r"`generator_optimizer` must have a finite learning rate, its `lr`, got \[inf\]"),
        (
            {"generator_scheduler": ReduceLROnPlateau},
            None,
            "`generator_scheduler` must not need a metric, got Re",
        ),
        ({"generator_scheduler": LinearDecay}, None, "`generator_scheduler` needs `total_iterations`"),
    ],
)
def test_mistakes(tmp_path, arguments, data, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, small_game(**arguments), -1, data=data and data(), max_epochs=1)
