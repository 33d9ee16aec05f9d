"""Both players' steps from one point: against torch by hand, counting, averaging, resuming, processes, errors."""

import copy
import pkgutil

import lightning.pytorch as pl
import pytest
import torch
from helpers.command import pcgan
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from pcgan_lightning.callbacks import AdaptivePreconditioning, FixedPreconditioning
from pcgan_lightning.cli.generate import load_gan
from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.games import JARE, ConOpt, ExtraGradient, SimGD, SymplecticGradientAdjustment
from pcgan_lightning.losses import HingeLoss, NonSaturatingLoss, SaturatingLoss
from pcgan_lightning.modules import SimultaneousGAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator
from pcgan_lightning.optim import LinearDecay
from pcgan_lightning.spectra import precondition

METHODS = {
    "SimGD": SimGD(),
    "ConOpt": ConOpt(3.0),
    "JARE": JARE(3.0),
    "half JARE": JARE(3.0, "generator"),
    "SGA": SymplecticGradientAdjustment(3.0),
    "ExtraGradient": ExtraGradient(),
}


def small_gan(**kwargs):
    networks = {
        "generator": CNNGenerator(channels=1, latent_dim=4, width=2, initialization="xavier_uniform"),
        "discriminator": CNNDiscriminator(channels=1, width=2, initialization="xavier_uniform"),
    }
    return SimultaneousGAN(**networks | kwargs)


def fit(tmp_path, gan, steps, ckpt_path=None, **kwargs):
    defaults = {
        "accelerator": "cpu",
        "default_root_dir": tmp_path,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(max_steps=steps, **defaults | kwargs)
    data = ImageDataModule(source="digits", channels=1, batch_size=4, max_images=32, seed=0)
    trainer.fit(gan, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def recorded(gan):
    """Return lists that fill with the real images and latents of each iteration."""
    reals, latents = [], []
    real_images, draw = gan.real_images, gan.draw_latents
    gan.real_images = lambda batch: reals.append(real_images(batch)) or reals[-1]
    gan.draw_latents = lambda count: latents.append(draw(count)) or latents[-1]
    return reals, latents


def test_simgd_is_the_plain_loop(tmp_path):
    """Bit for bit: two backward passes of one graph, then two steps of Adam."""
    gan = small_gan(loss=NonSaturatingLoss())
    generator, discriminator = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    reals, latents = recorded(gan)
    fit(tmp_path, gan, 4)
    adam_g, adam_d = (torch.optim.Adam(n.parameters(), 2e-4, (0.0, 0.9)) for n in (generator, discriminator))
    for real, z in zip(reals, latents, strict=True):
        on_real, on_fake = discriminator(real), discriminator(generator(z))
        gan.loss.generator(on_fake).backward(retain_graph=True, inputs=list(generator.parameters()))
        gan.loss.discriminator(on_real, on_fake).backward(inputs=list(discriminator.parameters()))
        for optimizer in (adam_g, adam_d):
            optimizer.step()
            optimizer.zero_grad()
    for own, by_hand in ((gan.generator, generator), (gan.discriminator, discriminator)):
        for (name, value), expected in zip(own.state_dict().items(), by_hand.state_dict().values(), strict=True):
            assert torch.equal(value, expected), name  # batch normalisation saw each latent once


@pytest.mark.parametrize("kind", [ConOpt, JARE])
@pytest.mark.parametrize("degree", [None, 7])
def test_regularised_steps_by_hand(tmp_path, kind, degree):
    """Two iterations of plain SGD, with the squared norms written out."""
    rate, gamma = 0.01, 0.1
    sgd = lambda p: torch.optim.SGD(p, lr=rate)  # noqa: E731
    gan = small_gan(
        loss=SaturatingLoss(), method=kind(gamma), generator_optimizer=sgd, discriminator_optimizer=sgd
    ).double()
    if degree is not None:
        precondition(gan.discriminator, degree, "all")
    by_hand = copy.deepcopy(gan)
    reals, latents = recorded(gan)
    fit(tmp_path, gan, 2, precision="64-true")
    for real, z in zip(reals, latents, strict=True):
        players = [list(network.parameters()) for network in (by_hand.generator, by_hand.discriminator)]
        losses = by_hand.game_losses(real.double(), z.double())
        first = [torch.autograd.grad(loss, own, create_graph=True) for loss, own in zip(losses, players, strict=True)]
        squares = [gamma / 2 * sum(g.square().sum() for g in gradients) for gradients in first]
        added = squares[::-1] if kind is JARE else [squares[0] + squares[1]] * 2
        second = [
            torch.autograd.grad(square, own, retain_graph=True, allow_unused=True)
            for square, own in zip(added, players, strict=True)
        ]
        for own, g, h in zip(players, first, second, strict=True):
            for parameter, a, b in zip(own, g, h, strict=True):
                parameter.grad = a.detach() if b is None else a.detach() + b
            torch.optim.SGD(own, lr=rate).step()
    start = small_gan().double().state_dict()
    for (name, value), expected in zip(gan.state_dict().items(), by_hand.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12, msg=name)  # float64, other order of sums
    assert any(not torch.allclose(value, start[name]) for name, value in gan.state_dict().items() if name in start)


def test_extrapolated_steps_by_hand(tmp_path):
    """Two iterations of SGD: gradients ahead on the same samples; statistics and singular vectors move once."""
    rate = 0.01
    sgd = lambda p: torch.optim.SGD(p, lr=rate)  # noqa: E731
    gan = small_gan(method=ExtraGradient(), generator_optimizer=sgd, discriminator_optimizer=sgd).double()
    precondition(gan.discriminator, 3, "all")
    here = copy.deepcopy(gan)
    reals, latents = recorded(gan)
    fit(tmp_path, gan, 2, precision="64-true")

    def step_by(origin, gradients):
        """Let the players step, each by the optimizer that its PC-layers' power iteration follows."""
        for network, own in zip((origin.generator, origin.discriminator), gradients, strict=True):
            for parameter, gradient in zip(network.parameters(), own, strict=True):
                parameter.grad = gradient
            torch.optim.SGD(network.parameters(), lr=rate).step()

    def gradients_of(game, real, z):
        losses = game.game_losses(real.double(), z.double())
        players = [list(network.parameters()) for network in (game.generator, game.discriminator)]
        return [torch.autograd.grad(loss, own, retain_graph=True) for loss, own in zip(losses, players, strict=True)]

    for real, z in zip(reals, latents, strict=True):
        first = gradients_of(here, real, z)
        ahead = copy.deepcopy(here)
        step_by(ahead, first)
        step_by(here, gradients_of(ahead, real, z))
    for (name, value), expected in zip(gan.state_dict().items(), here.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14, msg=name)


def test_checkpoints_of_former_names():
    """The methods stood in another file once."""
    for kind in (SimGD, ConOpt, JARE):
        assert pkgutil.resolve_name(f"pcgan_lightning.games.regularizers.{kind.__name__}") is kind


def test_one_iteration_is_one_step_of_each(tmp_path):
    order, steps = [], []

    class Count(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            for name, optimizer in zip("gd", trainer.optimizers, strict=True):
                optimizer.register_step_post_hook(lambda *_, name=name: order.append(name))

        def on_train_batch_end(self, trainer, pl_module, *_):
            steps.append(trainer.global_step)

    logger = CSVLogger(tmp_path, name="run", version="")
    gan = small_gan(method=JARE())
    forwards = [0, 0]
    for i, network in enumerate((gan.generator, gan.discriminator)):
        network.register_forward_hook(lambda *_, i=i: forwards.__setitem__(i, forwards[i] + 1))
    fit(tmp_path, gan, 10, callbacks=[Count()], logger=logger, log_every_n_steps=5)
    assert (sorted(order), steps) == (["d"] * 10 + ["g"] * 10, list(range(1, 11)))
    assert forwards == [10, 20], "the fakes are made once, and seen once"
    header, *rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert {"loss/discriminator", "loss/generator", "score/fake", "score/real", "step"} <= set(header.split(","))
    assert [int(float(row.split(",")[header.split(",").index("step")])) for row in rows] == [5, 10]


def test_logged_losses_are_the_game_losses(tmp_path):
    gan = small_gan(method=ConOpt(2.0), loss=HingeLoss())
    before = copy.deepcopy(gan)
    reals, latents = recorded(gan)
    logged = fit(tmp_path, gan, 1).callback_metrics
    generator_loss, discriminator_loss = before.game_losses(reals[0], latents[0])
    assert torch.equal(logged["loss/generator"], generator_loss)
    assert torch.equal(logged["loss/discriminator"], discriminator_loss)
    assert torch.equal(logged["score/real"], before.discriminator(reals[0]).mean())
    assert all(p.grad is not None for p in gan.parameters())


def test_average_of_generator_weights(tmp_path):
    history = []

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            history.append(next(pl_module.generator.parameters()).detach().clone())

    gan = small_gan(method=JARE(), ema_decay=0.9)
    fit(tmp_path, gan, 4, callbacks=[Record()])
    expected = history[0]  # torch's AveragedModel starts with the first weights it is shown
    for weights in history[1:]:
        expected = 0.9 * expected + 0.1 * weights
    torch.testing.assert_close(next(gan.averaged_generator.parameters()), expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_resumed_run_is_bit_identical(tmp_path, method):
    def make():
        pl.seed_everything(3, verbose=False)
        gan = small_gan(method=method, ema_decay=0.5, generator_scheduler=lambda o: LinearDecay(o, total_iterations=20))
        apc = AdaptivePreconditioning(thresholds=(1.4, 1.6, 1.8, 2.0), every_n_steps=3, history=2, layers="all")
        return gan, {"callbacks": [apc]}

    (whole, more), (first, and_more), (second, still_more) = make(), make(), make()
    pl.seed_everything(3, verbose=False)
    fit(tmp_path, whole, 14, **more)
    pl.seed_everything(3, verbose=False)
    fit(tmp_path, first, 9, **and_more).save_checkpoint(tmp_path / "nine.ckpt")
    resumed = fit(tmp_path, second, 14, ckpt_path=tmp_path / "nine.ckpt", **still_more)
    for name, value in whole.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value, second.state_dict()[name]), name
    for optimizer in resumed.optimizers:
        steps = 28 if isinstance(method, ExtraGradient) else 14  # those of the extrapolation count as well
        assert all(state["step"] == steps for state in optimizer.state.values())


def test_checkpoint_knows_its_class(tmp_path):
    gan = small_gan(method=ConOpt(3.0, "discriminator"))
    fit(tmp_path, gan, 1, callbacks=[FixedPreconditioning(3)]).save_checkpoint(tmp_path / "one.ckpt")
    for loaded in (SimultaneousGAN.load_from_checkpoint(tmp_path / "one.ckpt"), load_gan(tmp_path / "one.ckpt")[0]):
        assert isinstance(loaded, SimultaneousGAN)
        assert isinstance(loaded.method, ConOpt)
        assert loaded.method.init_args == {"gamma": 3.0, "players": "discriminator"}
        latents = gan.fixed_latents(2)
        assert torch.equal(loaded.sample_images(latents), gan.sample_images(latents))


@pytest.mark.parametrize("method", [ConOpt(10.0), JARE(10.0)])
def test_bf16_autocast(tmp_path, method):
    """Near the same step in float32: bf16 keeps 8 bits, and second derivatives pass through it a few times."""
    gradients = []
    for precision in ("bf16-mixed", "32-true"):
        torch.manual_seed(0)
        gan = small_gan(method=method, loss=NonSaturatingLoss())
        fit(tmp_path, gan, 1, precision=precision, callbacks=[FixedPreconditioning(degree=3)])
        assert all(p.grad.dtype == p.dtype for p in gan.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in gan.parameters()]))
    low, high = gradients
    assert torch.nn.functional.cosine_similarity(low, high, dim=0) > 0.99
    assert low.norm() == pytest.approx(high.norm().item(), rel=0.1)


def test_loss_scale_is_refused(tmp_path):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match="`precision` of the trainer must not need a loss scale, got '16-mixed'; use"):
        fit(tmp_path, small_gan(), 1, plugins=[plugin])


def test_frozen_parameters_stay(tmp_path):
    gan = small_gan(method=JARE())
    gan.discriminator.convolutions[0].requires_grad_(False)
    before = copy.deepcopy(gan.discriminator.convolutions[0].state_dict())
    fit(tmp_path, gan, 2)
    for name, value in gan.discriminator.convolutions[0].state_dict().items():
        assert torch.equal(value, before[name]), name


def test_networks_without_second_derivatives(tmp_path):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return 2 * ctx.saved_tensors[0] * gradient

    class Discriminator(CNNDiscriminator):
        def forward(self, images):
            return super().forward(Square.apply(images))

    gan = small_gan(discriminator=Discriminator(channels=1, width=2), method=JARE())
    with pytest.raises(ValueError, match="argument `generator_loss` must be twice differentiable, got a function"):
        fit(tmp_path, gan, 1)
    fit(tmp_path, small_gan(discriminator=Discriminator(channels=1, width=2)), 1)


@pytest.mark.slow
def test_command_line(tmp_path, monkeypatch, capsys):
    common = [
        *("fit", "--model=SimultaneousGAN", "--model.method=JARE"),
        *("--model.generator=CNNGenerator", "--model.generator.channels=1", "--model.generator.width=2"),
        *("--model.discriminator=CNNDiscriminator", "--model.discriminator.channels=1"),
        *("--model.discriminator.width=2", "--data.source=digits", "--data.channels=1", "--data.batch_size=4"),
        *("--data.max_images=32", "--trainer.max_steps=2", "--trainer.accelerator=cpu"),
        *("--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"),
    ]
    assert pcgan(monkeypatch, *common, "--model.method.gamma=7.5", "--run_dir", tmp_path / "run") == 0
    gan, iteration = load_gan(tmp_path / "run" / "checkpoints" / "last.ckpt", "cpu")
    assert (type(gan), type(gan.method), gan.method.gamma, iteration) == (SimultaneousGAN, JARE, 7.5, 2)
    for mistake, message in (
        ("--model.method.gamma=-1", "argument `gamma` must not be negative, got -1.0"),
        ("--model.method.players=all", "players"),
    ):
        capsys.readouterr()
        assert pcgan(monkeypatch, *common, mistake, "--run_dir", tmp_path / "other") == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pcgan: error:")]
        assert message in line
