"""Scores against closed forms and against torch-fidelity itself, in one process and in several."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from helpers import distributed_scores
from torch import nn
from torch_fidelity import FeatureExtractorBase, calculate_metrics, register_feature_extractor
from torchvision.transforms.v2.functional import gaussian_blur

from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.metrics import (
    ClassifierFeatures,
    GenerativeScores,
    ModuleFeatures,
    Reference,
    reference_statistics,
    score_generator,
    score_name,
)
from pcgan_lightning.metrics.scores import frechet_distance

SMALL = {"kid_subset_size": 20, "kid_subsets": 10}


def score(features, generated, real, cache, **settings):
    """Scores of uint8 images against real images."""
    metric = GenerativeScores(features, reference_statistics(real, features, cache), **(SMALL | settings))
    return score_generator(metric, lambda numbers: generated[numbers.start : numbers.stop], len(generated), 16)


def test_against_torch_fidelity_on_folders(features, make_images, save_folder, tmp_path):
    """The same two folders of PNG files and the same features, each library reading them on its own."""

    class Registered(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return "features", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits" if metric == "isc" else "features"

        def forward(self, images):
            found = dict(zip(("features", "logits"), features(images), strict=True))
            return tuple(found[name] for name in self.features_list)

    register_feature_extractor("ours", Registered)
    generated, real = save_folder(make_images(60, 1, shift=40), "generated"), save_folder(make_images(50, 2), "real")
    quiet = {"feature_extractor": "ours", "cuda": False, "verbose": False, "cache": False}
    compare = partial(calculate_metrics, input1=str(generated), input2=str(real), **quiet, **SMALL)
    theirs = compare(isc=True, fid=True, kid=True)
    images = ImageDataModule(source=str(generated), image_size=8).real_images().load()
    ours = score(features, images, ImageDataModule(source=str(real), image_size=8).real_images(), tmp_path)
    names = {
        "module_fid": "frechet_inception_distance",
        "module_score": "inception_score_mean",
        "module_kid": "kernel_inception_distance_mean",
        # torch-fidelity takes all images, 60 against 50: compared below.
    }
    assert theirs["frechet_inception_distance"] > 0.1
    for own, reference in names.items():
        assert ours[own] == pytest.approx(theirs[reference], rel=1e-4), own

    equal = score(features, images[:50], ImageDataModule(source=str(real), image_size=8).real_images(), tmp_path)
    for path in sorted(generated.iterdir())[50:]:
        path.unlink()
    theirs = compare(prc=True)
    assert 0 < theirs["precision"] != theirs["recall"] > 0
    assert (equal["module_precision"], equal["module_recall"]) == (theirs["precision"], theirs["recall"])


def test_frechet_distance_of_diagonal_covariances():
    """|m1 - m2|^2 + sum (sqrt(a) - sqrt(b))^2."""
    a, b = np.array([4.0, 1.0, 0.25]), np.array([1.0, 9.0, 0.25])
    first, second = (
        Reference(torch.tensor(mean), torch.diag(torch.tensor(values)), torch.empty(0), torch.tensor(0))
        for mean, values in (([1.0, 0.0, 0.0], a), ([0.0, 2.0, 0.0], b))
    )
    first.mean.data, second.mean.data = first.mean.double(), second.mean.double()
    expected = 5 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_inception_score_of_sure_and_even_classes(as_real, make_images, tmp_path):
    """exp(KL) is the number of classes for sure and even predictions, 1 for predictions that do not depend on x."""

    class Sure(nn.Module):
        def forward(self, images):
            kind = (images[:, 0, 0, 0] > 0).long()
            return images.flatten(1)[:, :4], 50.0 * nn.functional.one_hot(kind, 3).float()

    black_and_white = torch.tensor([0, 255] * 100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    real = as_real(make_images(50))
    found = score(ModuleFeatures(Sure()), black_and_white, real, tmp_path, scores=["score"], splits=2)
    assert found == {"module_score": pytest.approx(2, rel=0.02)}  # the shuffled halves are not exactly even
    found = score(ModuleFeatures(Sure()), black_and_white[::2], real, tmp_path, scores=["score"], splits=2)
    assert found == {"module_score": pytest.approx(1, abs=1e-9)}


def test_names_carry_the_label():
    assert [score_name("", s) for s in ("fid", "score", "kid", "recall")] == ["fid", "inception_score", "kid", "recall"]
    assert score_name("classifier", "score") == "classifier_score"
    assert score_name(ClassifierFeatures.label, "fid") == "classifier_fid"


def test_scores_are_chosen(features, make_images, as_real, tmp_path):
    images, real = make_images(40), as_real(make_images(40, 1))
    assert set(score(features, images, real, tmp_path)) == {
        f"module_{name}" for name in ("fid", "score", "kid", "precision", "recall")
    }
    assert set(score(features, images, real, tmp_path, scores=["fid", "kid"])) == {"module_fid", "module_kid"}
    without_logits = ModuleFeatures(features.module.backbone)
    assert "module_score" not in score(without_logits, images, real, tmp_path)


@pytest.mark.parametrize(
    ("settings", "least", "least_real", "message"),
    [
        ({"scores": ["fid"]}, 6, 6, "6 (real|generated) images (the number of features, for FID)"),
        ({"scores": ["kid"]}, 20, 20, "20 (real|generated) images (the images of a subset, for KID)"),
        ({"scores": ["precision_recall"]}, 4, 4, "4 (real|generated) images (the neighbours"),
        ({"scores": ["score"]}, 10, 1, "10 generated images (the number of splits"),
    ],
)
def test_too_few_images(features, make_images, as_real, settings, least, least_real, message):
    metric = GenerativeScores(features, **(SMALL | settings))
    metric.check(least, as_real(make_images(least_real)))
    message = message.replace("(the", r"\(the").replace("KID)", r"KID\)").replace("FID)", r"FID\)")
    for count, real_count in ((least - 1, 50), (50, least_real - 1))[: 2 if least_real > 1 else 1]:
        with pytest.raises(ValueError, match=f"must give at least {message}.*, got {min(count, real_count)}"):
            metric.check(count, as_real(make_images(real_count)))


def test_wrong_arguments(features, make_images, as_real, tmp_path):
    real, without_logits = as_real(make_images(50)), ModuleFeatures(features.module.backbone)
    metric = GenerativeScores(features, scores=["precision_recall"])
    metric.check(6, real, world_size=6)
    with pytest.raises(ValueError, match=r"argument `count` must be at least the number of processes, 6, got 5"):
        metric.check(5, real, world_size=6)
    GenerativeScores(without_logits, **SMALL).check(20, real)
    with pytest.raises(ValueError, match="argument `scores` must not contain 'score' for features of Sequential"):
        GenerativeScores(without_logits, scores=["score"]).check(50, real)
    for scores in ([], ["fid", "is"]):
        with pytest.raises(ValueError, match="argument `scores` must be some of fid, score, kid, precision_recall"):
            GenerativeScores(features, scores=scores)
    metric = GenerativeScores(features, reference_statistics(real, ModuleFeatures(nn.Flatten()), tmp_path))
    metric.update(make_images(20), torch.arange(20))
    with pytest.raises(ValueError, match="argument `reference` must be statistics of the same features"):
        metric.compute()


def test_protocol_tells_what_was_asked_for(features, make_images, as_real):
    real = as_real(make_images(30))
    metric = GenerativeScores(features, scores="fid")
    assert metric.protocol(40, real) == f"40 generated images against 30 of {real.description}; features of TwoHeads."
    metric = GenerativeScores(features, scores=["kid", "precision_recall"], kid_subset_size=20)
    details = "KID over 100 subsets of 20, precision and recall with 3 neighbours on 30 of each."
    assert metric.protocol(40, real).endswith(f"; features of TwoHeads; {details}")


@pytest.mark.ddp
def test_processes_agree_with_one(features, as_real, make_images, tmp_path):
    """Also where a process has one image less than another."""
    count = 61
    reference = reference_statistics(as_real(make_images(60, 3)), features, tmp_path)
    torch.save(reference, tmp_path / "reference.pt")
    alone = score_generator(
        GenerativeScores(features, reference, **SMALL), distributed_scores.images_of, count, batch_size=8
    )
    mp.spawn(distributed_scores.one_of_two, (count, str(tmp_path)), nprocs=2)
    for rank in range(2):
        seen, found = torch.load(tmp_path / f"scores_{rank}.pt")
        assert seen == (count + 1 - rank) // 2  # each saw its own images only
        assert found == {name: pytest.approx(value, rel=1e-5) for name, value in alone.items()}


@pytest.mark.slow
def test_classifier_fid_on_cifar10(cifar10, tmp_path):
    """Of test images far below that of blurred images, and rising with the blur; noise is far off."""
    features = ClassifierFeatures()
    data = ImageDataModule(source=str(cifar10), validation_split="test")
    real, test = data.real_images("train", 4000), data.real_images("validation", 2000).load()

    def fid(images):
        return score(features, images, real, tmp_path, scores=["fid"])["classifier_fid"]

    itself = score(features, real.load(), real, tmp_path, scores=["fid"])["classifier_fid"]
    assert abs(itself) < 1e-3
    held_out, *blurred = fid(test), *(fid(gaussian_blur(test, 9, sigma)) for sigma in (0.5, 1.0, 2.0))
    noise = fid(torch.randint(256, test.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    assert held_out < blurred[0] < blurred[1] < blurred[2]
    assert 5 * held_out < blurred[1]
    assert 20 * held_out < noise
