"""The module over the methods of games/dualing.py: by hand, what it logs, what it refuses."""

import copy
import math

import pytest
import torch
from helpers.short_fits import fit, recorded, sgd, small_game
from torch import nn

from pcgan_lightning.callbacks import BalanceLogger, FixedPreconditioning, NonFiniteGuard
from pcgan_lightning.data import ImageDataModule, MixtureOfGaussians
from pcgan_lightning.games import CostLinearization, LinearDual, ScoreLinearization
from pcgan_lightning.modules import DualingGAN
from pcgan_lightning.networks import (
    LinearDiscriminator,
    MLPDiscriminator,
    MLPGenerator,
    PenultimateLayer,
    RandomFourierFeatures,
)


def dualing(**kwargs):
    return small_game(DualingGAN, **{"generator_optimizer": sgd()["generator_optimizer"]} | kwargs)


@pytest.mark.parametrize("method", [ScoreLinearization(0.01, 0.02, 2, 4), CostLinearization(0.01, 0.02)])
def test_iterations_by_hand(tmp_path, method):
    """Two iterations of two steps: the generator descends by SGD, the second point's s moves the discriminator."""
    gan = dualing(method=method, steps=2).double()
    by_hand = copy.deepcopy(gan)
    reals, latents = recorded(gan)
    logged = fit(tmp_path, gan, 2, precision="64-true").callback_metrics
    generator, discriminator = (list(n.parameters()) for n in (by_hand.generator, by_hand.discriminator))
    for real, z in zip(reals, latents, strict=True):
        logits = None
        for _ in range(2):
            scores = by_hand.scores(real.double(), by_hand.generator(z.double()))
            update = method(*scores, generator, discriminator, logits=logits)
            logits = update.logits
            for p, g in zip(generator, update.generator, strict=True):
                p.data -= 0.01 * g
        for p, s in zip(discriminator, update.step, strict=True):
            p.data += s
    for own, expected in zip(gan.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-12)  # float64, other order of sums
    for name, value in update.record.items():
        torch.testing.assert_close(logged[name], value, rtol=1e-6, atol=1e-6, check_dtype=False)
    expected = {"primal", "value", "multiplier", "step"}
    expected |= {"gap", "bound_share"} if isinstance(method, ScoreLinearization) else set()
    assert {name.removeprefix("dual/") for name in logged if name.startswith("dual/")} == expected


def test_with_everything_around_it(tmp_path):
    """PC-layers on the discriminator, the average, a scheduler that halves s, foreign callbacks; the file opens."""
    halved = lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda _: 0.5)  # noqa: E731
    gan = dualing(method=ScoreLinearization(0.01, 0.02), ema_decay=0.9, discriminator_scheduler=halved)
    callbacks = FixedPreconditioning(degree=3), NonFiniteGuard(), BalanceLogger(every_n_steps=1)
    trainer = fit(tmp_path, gan, 1, *callbacks)
    steps = callbacks[2].series["players"]["discriminator"]["relative_step"]
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    loaded = DualingGAN.load_from_checkpoint(tmp_path / "x.ckpt")
    assert (loaded.method.init_args, loaded.steps) == (gan.method.init_args, 1)
    assert all(map(torch.equal, loaded.state_dict().values(), gan.state_dict().values()))
    weights = sum(p.square().sum() for p in gan.discriminator.parameters()).sqrt().item()
    assert trainer.callback_metrics["dual/step"].item() == pytest.approx(math.sqrt(0.04), rel=1e-5)
    assert steps == [pytest.approx(0.1 / weights, rel=0.02)]  # over the weights before the step


def test_linear_discriminator_stands_at_its_optimum(tmp_path):
    """On points of the plane; what is logged of the last batch has no gap."""
    torch.manual_seed(0)
    features = RandomFourierFeatures(count=32)
    gan = DualingGAN(MLPGenerator(width=8, latent_dim=4), LinearDiscriminator(features), LinearDual(0.01))
    trainer = fit(tmp_path, gan, 3, data=MixtureOfGaussians(batch_size=16, seed=0))
    assert trainer.callback_metrics["dual/gap"] < 1e-6
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    loaded = DualingGAN.load_from_checkpoint(tmp_path / "x.ckpt").discriminator
    assert torch.equal(loaded(torch.ones(3, 2)), gan.discriminator(torch.ones(3, 2)))


def test_resumed_linear_dual_is_bit_identical(tmp_path):
    """The other methods are among tests/modules/test_checkpoints.py's."""

    def run(iterations, ckpt_path=None):
        torch.manual_seed(0)
        scores = LinearDiscriminator(RandomFourierFeatures(count=32))
        gan = DualingGAN(MLPGenerator(width=8, latent_dim=4), scores, LinearDual(0.01), ema_decay=0.9)
        data = MixtureOfGaussians(batch_size=16, seed=0)
        return fit(tmp_path, gan, iterations, data=data, ckpt_path=ckpt_path)

    whole, path = run(6).lightning_module.state_dict(), tmp_path / "x.ckpt"
    run(4).save_checkpoint(path)
    resumed = run(6, path).lightning_module.state_dict()
    assert all(map(torch.equal, resumed.values(), whole.values()))


@pytest.mark.parametrize("method", [LinearDual(0.01, tolerance=0.0), ScoreLinearization(0.01, 0.02, 5, 20, 0.0)])
def test_mixed_precision_keeps_the_discriminators_digits(tmp_path, method):
    """The step is that of float64 from the images which the generator makes under autocast."""
    torch.manual_seed(0)
    linear = isinstance(method, LinearDual)
    discriminator = LinearDiscriminator(RandomFourierFeatures(count=32)) if linear else MLPDiscriminator(width=8)
    gan, seen = DualingGAN(MLPGenerator(width=8, latent_dim=4), discriminator, method), []
    by_hand = copy.deepcopy(discriminator).double()
    discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    fit(tmp_path, gan, 1, data=MixtureOfGaussians(batch_size=16, seed=0), precision="bf16-mixed")
    real, fake = (images.double().requires_grad_() for images in seen)
    assert torch.equal(fake, fake.bfloat16())
    parameters = list(by_hand.parameters())
    update = method(by_hand(real), by_hand(fake), [fake], parameters)
    for own, before, step in zip(discriminator.parameters(), parameters, update.step, strict=True):
        # float32 rounds the step by a condition number times 6e-8; bfloat16 would by 4e-3 of it.
        torch.testing.assert_close(own.double(), before.detach() + step, rtol=0, atol=1e-4 * float(step.norm()))


@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_sixteen_bits_are_refused_before_training(tmp_path, precision):
    """Whether the trainer's precision has made them or the user; the method that needs no second derivative trains."""
    dtype = torch.bfloat16 if precision == "32-true" else torch.float32
    gan = dualing().to(dtype)
    message = "argument `discriminator` must have at least 32 bits for ScoreLinearization, got torch.bfloat16"
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, gan, 1, precision=precision)
    assert gan.trainer.global_step == 0
    assert not gan.trainer.optimizers[0].state
    fit(tmp_path, dualing(method=CostLinearization()), 1, precision="bf16-true")


def test_features():
    """Products of random features are a Gaussian kernel up to 1/sqrt(count); the penultimate layer is the score's."""
    x, y = torch.randn(2, 20, 2)
    features = RandomFourierFeatures(count=100_000, bandwidth=1.5)
    kernel = (-torch.cdist(x, y).square() / (2 * 1.5**2)).exp()
    torch.testing.assert_close(features(x) @ features(y).T, kernel, rtol=0, atol=0.02)  # 6 standard deviations
    network = MLPDiscriminator(width=8)
    last = network.layers[-1]
    scores = PenultimateLayer(network)(x) @ last.weight[0] + last.bias
    torch.testing.assert_close(scores, network(x))
    assert LinearDiscriminator(PenultimateLayer(network)).linear.in_features == 8


def loader(batch_size):
    """None: it does not tell that its batches hold one image."""
    shape = (4, 1, 32, 32) if batch_size else (4, 1, 1, 32, 32)
    return torch.utils.data.DataLoader(torch.zeros(shape), batch_size=batch_size)


ONE_BY_ONE = ImageDataModule("digits", channels=1, batch_size=1, max_images=4)


class Varying(nn.Module):
    def forward(self, images):
        return images.flatten(1).repeat(1, len(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: dualing(steps=0), "argument `steps` must be at least 1, got 0"),
        (lambda _: dualing(discriminator=nn.Flatten()), "`discriminator` must have parameters to train, got Flatten"),
        (lambda _: LinearDiscriminator(Varying()), "argument `features` must give as many for all images, got 4, 6"),
        (lambda _: LinearDiscriminator(nn.Flatten(0)), r"argument `features` must give \[N, D\], got \(4,\) of 2"),
        (lambda _: PenultimateLayer(nn.ReLU()), "argument `network` must have a linear layer, got ReLU without one"),
        (
            lambda fitted: fitted(loader(1)),
            "argument `batch_size` of the data must be at least 2 for DualingGAN, got 1",
        ),
        (lambda fitted: fitted(ONE_BY_ONE), "argument `batch_size` of the data .*, got 1"),
        (lambda fitted: fitted(loader(None)), "argument `real_scores` must hold at least 2 samples, got 1"),
        (lambda fitted: fitted(loader(4), LinearDual()), "linear in them for LinearDual, got"),
    ],
)
def test_refused(make, message, tmp_path):
    def fitted(data, method=None):
        fit(tmp_path, dualing(method=method), 1, data=data)

    with pytest.raises(ValueError, match=message):
        make(fitted)
