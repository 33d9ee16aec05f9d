"""Both players' steps from one point: against torch by hand, and what it asks of trainer and networks."""

import copy

import pytest
import torch
from helpers.command import one_error, pcgan
from helpers.short_fits import fit, recorded, sgd
from helpers.short_fits import small_simultaneous_game as small_game
from lightning.pytorch.plugins.precision import MixedPrecision

from pcgan_lightning.callbacks import FixedPreconditioning
from pcgan_lightning.cli.generate import load_gan
from pcgan_lightning.games import JARE, ConOpt, ExtraGradient
from pcgan_lightning.losses import HingeLoss, NonSaturatingLoss, SaturatingLoss
from pcgan_lightning.modules import SimultaneousGAN
from pcgan_lightning.networks import CNNDiscriminator
from pcgan_lightning.spectra import precondition


def players_of(game):
    return [list(network.parameters()) for network in (game.generator, game.discriminator)]


def step(game, gradients):
    """Let the players step, each by the optimizer that its PC-layers' power iteration follows."""
    for own, new in zip(players_of(game), gradients, strict=True):
        for parameter, gradient in zip(own, new, strict=True):
            parameter.grad = gradient
        torch.optim.SGD(own, lr=0.01).step()


def gradients_of(game, real, z, **kwargs):
    losses = game.game_losses(real.double(), z.double())
    pairs = zip(losses, players_of(game), strict=True)
    return [torch.autograd.grad(loss, own, retain_graph=True, **kwargs) for loss, own in pairs]


def assert_close(game, by_hand, **tolerance):
    for (name, value), expected in zip(game.state_dict().items(), by_hand.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, msg=name, **tolerance)


def test_simgd_is_the_plain_loop(tmp_path):
    """Bit for bit: two backward passes of one graph, then two steps of Adam; the logged losses are the game's."""
    gan = small_game(loss=NonSaturatingLoss())
    generator, discriminator = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    forwards = {gan.generator: 0, gan.discriminator: 0}
    for network in forwards:
        network.register_forward_hook(lambda own, *_: forwards.update({own: forwards[own] + 1}))
    reals, latents = recorded(gan)
    logged = fit(tmp_path, gan, 4).callback_metrics
    assert list(forwards.values()) == [4, 8], "the fakes are made once, and seen once"
    adam_g, adam_d = (torch.optim.Adam(n.parameters(), 2e-4, (0.0, 0.9)) for n in (generator, discriminator))
    for real, z in zip(reals, latents, strict=True):
        on_real, on_fake = discriminator(real), discriminator(generator(z))
        losses = gan.loss.generator(on_fake), gan.loss.discriminator(on_real, on_fake)
        losses[0].backward(retain_graph=True, inputs=list(generator.parameters()))
        losses[1].backward(inputs=list(discriminator.parameters()))
        for optimizer in (adam_g, adam_d):
            optimizer.step()
            optimizer.zero_grad()
    for own, by_hand in ((gan.generator, generator), (gan.discriminator, discriminator)):
        assert_close(own, by_hand, rtol=0, atol=0)  # batch normalisation saw each latent once
    found = [logged[name] for name in ("loss/generator", "loss/discriminator", "score/real", "score/fake")]
    assert torch.equal(torch.stack(found), torch.stack([*losses, on_real.mean(), on_fake.mean()]))


@pytest.mark.parametrize(("kind", "degree"), [(ConOpt, None), (JARE, 7)])
def test_regularised_steps_by_hand(tmp_path, kind, degree):
    """Two iterations of plain SGD, with the squared norms written out; the logged losses are without them."""
    gamma = 0.1
    gan = small_game(loss=SaturatingLoss(), method=kind(gamma), **sgd()).double()
    if degree is not None:
        precondition(gan.discriminator, degree, "all")
    start, by_hand = copy.deepcopy(gan.state_dict()), copy.deepcopy(gan)
    reals, latents = recorded(gan)
    logged = fit(tmp_path, gan, 2, precision="64-true").callback_metrics
    for real, z in zip(reals, latents, strict=True):
        losses = copy.deepcopy(by_hand).game_losses(real.double(), z.double())
        first = gradients_of(by_hand, real, z, create_graph=True)
        squares = [gamma / 2 * sum(g.square().sum() for g in gradients) for gradients in first]
        added = squares[::-1] if kind is JARE else [squares[0] + squares[1]] * 2
        second = [
            torch.autograd.grad(square, own, retain_graph=True, allow_unused=True)
            for square, own in zip(added, players_of(by_hand), strict=True)
        ]
        totals = [
            [a.detach() if b is None else a.detach() + b for a, b in zip(*pair, strict=True)]
            for pair in zip(first, second, strict=True)
        ]
        step(by_hand, totals)
    assert_close(gan, by_hand, rtol=1e-9, atol=1e-12)  # float64, other order of sums
    assert any(not torch.allclose(value, start[name]) for name, value in gan.state_dict().items())
    for name, loss in zip(("generator", "discriminator"), losses, strict=True):
        torch.testing.assert_close(logged[f"loss/{name}"], loss, rtol=1e-9, atol=1e-12, check_dtype=False)


def test_extrapolated_steps_by_hand(tmp_path):
    """Two iterations of SGD: gradients ahead on the same samples; statistics and singular vectors move once."""
    gan = small_game(loss=HingeLoss(), method=ExtraGradient(), **sgd()).double()
    precondition(gan.discriminator, 3, "all")
    here = copy.deepcopy(gan)
    reals, latents = recorded(gan)
    fit(tmp_path, gan, 2, precision="64-true")
    for real, z in zip(reals, latents, strict=True):
        first = gradients_of(here, real, z)
        ahead = copy.deepcopy(here)
        step(ahead, first)
        step(here, gradients_of(ahead, real, z))
    assert_close(gan, here, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", [ConOpt(10.0), JARE(10.0)])
def test_bf16_autocast(tmp_path, method):
    """Near the same step in float32: bf16 keeps 8 bits, and second derivatives pass through it a few times."""
    gradients = []
    for precision in ("bf16-mixed", "32-true"):
        torch.manual_seed(0)
        gan = small_game(method=method, loss=NonSaturatingLoss())
        fit(tmp_path, gan, 1, FixedPreconditioning(degree=3), precision=precision)
        assert all(p.grad.dtype == p.dtype for p in gan.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in gan.parameters()]))
    low, high = gradients
    assert torch.nn.functional.cosine_similarity(low, high, dim=0) > 0.99
    assert low.norm() == pytest.approx(high.norm().item(), rel=0.1)


def test_frozen_parameters_stay(tmp_path):
    gan = small_game(method=JARE())
    gan.discriminator.convolutions[0].requires_grad_(False)
    before = copy.deepcopy(gan.discriminator.convolutions[0])
    fit(tmp_path, gan, 2)
    assert_close(gan.discriminator.convolutions[0], before, rtol=0, atol=0)


def test_loss_scale_is_refused(tmp_path):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match="`precision` of the trainer must not need a loss scale, got '16-mixed'; use"):
        fit(tmp_path, small_game(), 1, plugins=[plugin])


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

    discriminator = Discriminator(channels=1, width=2)
    with pytest.raises(ValueError, match="argument `generator_loss` must be twice differentiable, got a function"):
        fit(tmp_path, small_game(discriminator=discriminator, method=JARE()), 1)
    fit(tmp_path, small_game(discriminator=discriminator), 1)


@pytest.mark.slow
def test_command_line(tmp_path, monkeypatch, capsys):
    common = [
        *("fit", "--model=SimultaneousGAN", "--model.method=JARE", "--model.generator=CNNGenerator"),
        *("--model.generator.channels=1", "--model.generator.width=2", "--model.discriminator=CNNDiscriminator"),
        *("--model.discriminator.channels=1", "--model.discriminator.width=2", "--data.source=digits"),
        *("--data.channels=1", "--data.batch_size=4", "--data.max_images=32", "--trainer.max_steps=2"),
        *("--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"),
    ]
    assert pcgan(monkeypatch, *common, "--model.method.gamma=7.5", "--run_dir", tmp_path / "run") == 0
    gan, iteration = load_gan(tmp_path / "run" / "checkpoints" / "last.ckpt", "cpu")
    assert (type(gan), type(gan.method), gan.method.gamma, iteration) == (SimultaneousGAN, JARE, 7.5, 2)
    capsys.readouterr()
    assert pcgan(monkeypatch, *common, "--model.method.gamma=-1", "--run_dir", tmp_path / "other") == 1
    line = one_error(capsys)
    assert "argument `gamma` must not be negative, got -1.0" in line
