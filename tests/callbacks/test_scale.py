"""FPC and APC that keep the layers' scale: optimizers, resumed runs, what is refused, what is logged."""

import copy

import lightning.pytorch
import pytest
import torch
from helpers.foreign_modules import image_loader, make_two_player_gan
from helpers.short_fits import assert_same, fit, small_game, small_simultaneous_game
from torch.nn.utils.parametrize import is_parametrized

from pcgan_lightning.callbacks import AdaptivePreconditioning, FixedPreconditioning, NonFiniteGuard, SpectrumLogger
from pcgan_lightning.modules import GAN
from pcgan_lightning.spectra import (
    original_parameters,
    original_weight,
    precondition,
    preconditioners,
    remove_preconditioning,
    singular_values,
    weight_layers,
)

LEARNABLE = {"layers": "all", "scale": "learnable"}


def apc(**options):
    return AdaptivePreconditioning(thresholds=(1.5,), degrees=(1, 5), every_n_steps=1, history=2, **options)


def scales(network):
    return {name: p.scale for name, p in preconditioners(network).items()}


def values(network):
    return {name: scale.item() for name, scale in scales(network).items()}


def held(trainer):
    return {id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]}


def test_the_optimizer_of_a_module_of_others_trains_the_scales(tmp_path):
    """As if `precondition` had been called by hand before the fit."""
    module = make_two_player_gan(lightning.pytorch)()
    by_hand = copy.deepcopy(module)
    trainer = fit(tmp_path, module, 8, FixedPreconditioning(3, **LEARNABLE), data=image_loader())
    assert {id(scale) for scale in scales(module.discriminator).values()} <= held(trainer)
    start = values(precondition(by_hand.discriminator, 3, **LEARNABLE))
    assert all(value != start[name] for name, value in values(module.discriminator).items())
    fit(tmp_path, by_hand, 8, data=image_loader())
    assert_same(dict(module.state_dict()), dict(by_hand.state_dict()))


def test_optimizers_made_too_early_are_refused_before_training(tmp_path):
    class Early(make_two_player_gan(lightning.pytorch)):
        def __init__(self):
            super().__init__()
            self.made = super().configure_optimizers()

        def configure_optimizers(self):
            return self.made

    module = Early()
    before = {name: p.detach().clone() for name, p in original_parameters(module).items()}
    message = (
        r"^argument `scale` must not be 'learnable' where the optimizers were made before the PC-layers, got none that "
        r"holds the scale of layer '0'$"
    )
    for callback in (FixedPreconditioning(3, **LEARNABLE), apc(**LEARNABLE)):
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, module, 2, callback, data=image_loader())
    assert all(torch.equal(original_parameters(module)[name], value) for name, value in before.items())
    fit(tmp_path, module, 2, FixedPreconditioning(3, scale="norm"), data=image_loader())
    fit(tmp_path, Early(), 2, FixedPreconditioning(3, "generator", "all"), data=image_loader())


def test_a_target_that_nothing_trains_is_none_of_the_optimizers_concern(tmp_path):
    class Frozen(make_two_player_gan(lightning.pytorch)):
        def configure_optimizers(self):
            rest = self.generator[0].bias, *self.discriminator.parameters()
            return [torch.optim.SGD(p, lr=0.1) for p in ([rest[0]], rest[1:])]

    module = Frozen()
    module.generator[0].weight.requires_grad_(False)
    fit(tmp_path, module, 2, FixedPreconditioning(3, "generator", **LEARNABLE), data=image_loader())
    assert not scales(module.generator)["0"].requires_grad


@pytest.mark.parametrize("make", [lambda: apc(**LEARNABLE), lambda: FixedPreconditioning(7, "generator", **LEARNABLE)])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, make):
    """Of the generator, the average of its weights has scales of its own."""
    start = small_game(ema_decay=0.5)
    whole, half, resumed = (copy.deepcopy(start) for _ in range(3))
    end = fit(tmp_path, whole, 4, make(), NonFiniteGuard())
    fit(tmp_path, half, 2, make()).save_checkpoint(tmp_path / "half.ckpt")
    assert_same(
        [o.state_dict() for o in fit(tmp_path, resumed, 4, make(), ckpt_path=tmp_path / "half.ckpt").optimizers],
        [o.state_dict() for o in end.optimizers],
    )
    assert_same(dict(resumed.state_dict()), dict(whole.state_dict()))
    assert not any(p.requires_grad for p in resumed.averaged_generator.parameters())

    opened = GAN.load_from_checkpoint(tmp_path / "half.ckpt")
    assert_same(dict(opened.state_dict()), dict(half.state_dict()))


def test_methods_of_second_derivatives_train_them(tmp_path):
    game = small_simultaneous_game()
    start = values(precondition(copy.deepcopy(game).discriminator, 3, **LEARNABLE))
    fit(tmp_path, game, 2, FixedPreconditioning(3, **LEARNABLE))
    assert all(value != start[name] for name, value in values(game.discriminator).items())


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (FixedPreconditioning(3, scale="learnable"), FixedPreconditioning(5)),
        (FixedPreconditioning(3), FixedPreconditioning(3, scale="norm")),
        (FixedPreconditioning(3, scale="norm"), apc(scale="learnable")),
    ],
)
def test_another_scale_than_the_checkpoints_is_refused(tmp_path, before, now):
    fit(tmp_path, small_game(), 1, before).save_checkpoint(tmp_path / "x.ckpt")
    message = rf"^argument `scale` must be that of the checkpoint, '{before.scale}' at layer '\S+', got '{now.scale}'$"
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, small_game(), 2, now, ckpt_path=tmp_path / "x.ckpt")


def test_scales_put_on_over_a_checkpoint_without_pc_layers(tmp_path):
    """The optimizers are made for the checkpoint's form."""
    fit(tmp_path, small_game(), 1).save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="`scale` must not be 'learnable' where the optimizers were made before"):
        fit(tmp_path, small_game(), 2, FixedPreconditioning(3, scale="learnable"), ckpt_path=tmp_path / "x.ckpt")
    gan = small_game()
    fit(tmp_path, gan, 2, FixedPreconditioning(3, scale="norm"), ckpt_path=tmp_path / "x.ckpt")
    assert {p.scale_kind for p in preconditioners(gan.discriminator).values()} == {"norm"}


def test_adaptive_changes_the_kind_of_layers_that_are_on_and_a_test_resets_nothing(tmp_path):
    module = make_two_player_gan(lightning.pytorch)()
    module.test_step = lambda batch, batch_idx: None
    precondition(module.discriminator, 3, "all")
    trainer = fit(tmp_path, module, 3, apc(**LEARNABLE), data=image_loader())
    after = values(module.discriminator), {n: p.polynomial for n, p in preconditioners(module.discriminator).items()}
    trainer.test(module, image_loader(), verbose=False)
    assert (
        values(module.discriminator),
        {n: p.polynomial for n, p in preconditioners(module.discriminator).items()},
    ) == (after)
    assert len({p.degree for p in after[1].values()}) == 2


def test_spectra_are_of_the_scaled_weights(tmp_path):
    gan, logger = small_game(), SpectrumLogger(2, k=2)
    for layer in weight_layers(gan.discriminator).values():
        layer.weight.data.mul_(5)  # lest the norms be about one
    fit(tmp_path, gan, 2, FixedPreconditioning(5, layers="all", scale="norm"), logger)
    for name, entry in logger.series["layers"].items():
        layer = gan.discriminator.get_submodule(name)
        assert is_parametrized(layer)
        weight = layer.weight.detach().flatten(1)
        found = torch.linalg.svdvals(weight)
        torch.testing.assert_close(torch.tensor(entry["largest"][-1]), found[:2], rtol=1e-5, atol=0)
        # What the polynomial is given has the norm one, whatever the scale.
        before = singular_values(gan.discriminator, after_polynomial=False)[name]
        assert before[0].item() == pytest.approx(1, rel=0.05)
        norm = torch.linalg.matrix_norm(original_weight(layer).detach().flatten(1), 2).item()
        assert norm > 2
        assert found[0].item() == pytest.approx(norm, rel=0.05)


def test_folded_scales_leave_the_scores(tmp_path):
    gan = small_game()
    fit(tmp_path, gan, 2, FixedPreconditioning(3, **LEARNABLE))
    images = torch.randn(2, *gan.discriminator.image_shape)
    scores = gan.discriminator(images)
    # Together and alone, layers are computed by products of other shapes: equal up to rounding.
    torch.testing.assert_close(remove_preconditioning(gan.discriminator)(images), scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("callback", [FixedPreconditioning, AdaptivePreconditioning])
def test_unknown_scale(callback):
    with pytest.raises(ValueError, match=r"^argument `scale` must be one of unit, norm, learnable, got 'one'$"):
        callback(scale="one")
