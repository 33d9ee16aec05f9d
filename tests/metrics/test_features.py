"""Features: what networks see in images, and what is wrong with their weights."""

import re
from urllib.error import URLError

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.transforms.v2.functional import InterpolationMode, resize

from pcgan_lightning.data import LabelledImageDataModule
from pcgan_lightning.metrics import (
    ClassifierFeatures,
    DigitClassifier,
    DigitFeatures,
    InceptionFeatures,
    ModuleFeatures,
)
from pcgan_lightning.metrics.features import SHIPPED_CLASSIFIER
from pcgan_lightning.networks import ImageClassifier


@pytest.mark.slow
def test_inception_is_that_of_torch_fidelity(inception_weights, make_images):
    ours = InceptionFeatures(weights=inception_weights)
    ours.load()
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_weights)
    )
    images = make_images(2, size=32)
    for own, reference in zip(ours(images), theirs(images), strict=True):
        assert torch.equal(own, reference)
    assert [t.shape[1] for t in ours(images)] == [2048, 1008]


@pytest.mark.parametrize("size", [32, 16, 48])
def test_classifier_sees_scaled_and_resized_images(make_images, size):
    """Resized as torchvision does, antialiased; values stay in [-1, 1]."""
    features = ClassifierFeatures()
    features.load()
    images = make_images(4, size=size)
    found, logits = features(images)
    seen = images.float() / 127.5 - 1
    if size != 32:
        seen = resize(seen, [32, 32], InterpolationMode.BICUBIC, antialias=True).clamp(-1, 1)
    assert found.shape == (4, features.network.feature_dim)
    # The other order of memory sums in another order.
    torch.testing.assert_close(logits, features.network(seen), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, features.network.features(seen), rtol=1e-4, atol=1e-4)


def test_grey_images_are_repeated(features, make_images):
    grey = make_images(3)[:, :1]
    assert torch.equal(features(grey)[0], features(grey.repeat(1, 3, 1, 1))[0])


def test_digit_features_are_the_classifiers_hidden_layer():
    images, classifier = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8), DigitClassifier(16)
    found, logits = DigitFeatures()(images)
    assert found.shape == (5, 128)
    torch.testing.assert_close(logits, classifier(images.float() / 127.5 - 1))
    torch.testing.assert_close(classifier.layers[-1](found), logits)


def test_module_features_in_minus_one_to_one():
    class Identity(nn.Module):
        def forward(self, images):
            return images.flatten(1)

    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    found, logits = ModuleFeatures(Identity())(images)
    torch.testing.assert_close(found, torch.tensor([[-1.0, -0.6, 1.0]]))
    assert logits is None


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda f: f(torch.zeros(2, 3, 8, 8)), "argument `images` must be uint8 of shape"),
        (lambda f: f(torch.zeros(2, 2, 8, 8, dtype=torch.uint8)), "argument `images` must be uint8 of shape"),
        (lambda f: f(torch.zeros(3, 8, 8, dtype=torch.uint8)), "argument `images` must be uint8 of shape"),
        (
            lambda f: ModuleFeatures(nn.Conv2d(3, 4, 1))(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)),
            r"shape \[N, d\], got \[2, 4, 8, 8\] for 2 images",
        ),
        # No label may make a classifier's scores look like Inception's.
        *[
            (lambda f, label=label: ModuleFeatures(nn.Identity(), label=label), "argument `label` must be a word")
            for label in ("no word", "inception", "")
        ],
    ],
)
def test_images_features_and_labels_of_the_wrong_kind(features, use, message):
    with pytest.raises(ValueError, match=message):
        use(features)


def test_fingerprint_follows_weights_and_network(features):
    before = features.fingerprint()
    assert features.fingerprint() == before
    features.module.head.bias.data[0] += 1
    changed = features.fingerprint()
    assert changed != before
    features.module.backbone[1] = nn.ReLU()
    assert features.fingerprint() not in (before, changed)


class Evil:
    def __reduce__(self):
        return (open, ("was_here", "w"))


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        *[(kind, "nowhere", r".*nowhere.*put (it )?there") for kind in (InceptionFeatures, ClassifierFeatures)],
        *[(kind, "text", ".*text") for kind in (InceptionFeatures, ClassifierFeatures)],
        (InceptionFeatures, "linear.pth", "torch-fidelity's Inception weights.*linear.pth"),
        (ClassifierFeatures, "linear.safetensors", "written by `pcgan classifier fit`"),
        (InceptionFeatures, "evil.pth", ".*evil.pth"),
    ],
)
def test_files_without_the_weights(kind, name, message, tmp_path):
    """None of which runs any code."""
    (tmp_path / "text").write_text("no weights")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "linear.safetensors", {"init_args": "{}"})
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    error = FileNotFoundError if name == "nowhere" else ValueError
    with pytest.raises(error, match=f"argument `weights` must be {message}"):
        kind(weights=tmp_path / name).load()
    assert not (tmp_path / "was_here").exists()


def test_unreachable_download(monkeypatch, tmp_path):
    def unreachable(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", unreachable)
    with pytest.raises(OSError, match=rf"cannot be reached.*put it to {tmp_path}.*weights-inception-2015.*\.pth"):
        InceptionFeatures().load()


def test_downloaded_weights_are_found(monkeypatch, tmp_path, inception_weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "weights-inception-2015-12-05-6726825d.pth").symlink_to(inception_weights)
    features = InceptionFeatures()
    features.load()
    assert features.network is not None


def test_shipped_classifier_is_small_and_says_how_it_was_made():
    assert SHIPPED_CLASSIFIER.stat().st_size < 8e6
    with safe_open(SHIPPED_CLASSIFIER, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["command"].startswith("pcgan classifier fit --config configs/classifier/cifar10.yaml")
    assert 0.5 < float(metadata["accuracy"]) < 1
    own = ImageClassifier()
    own.load_state_dict(load_file(SHIPPED_CLASSIFIER))  # the defaults are the shipped ones


@pytest.mark.slow
def test_shipped_classifier_is_as_accurate_as_it_says(cifar10):
    features = ClassifierFeatures()
    features.load()
    data = LabelledImageDataModule(source=str(cifar10), split="test[:2000]", validation_split="test[:2000]")
    data.setup("validate")
    right = sum((features(images)[1].argmax(1) == labels).sum().item() for images, labels in data.val_dataloader())
    stated = float(re.search(r"([\d.]+)%", features.description)[1]) / 100
    # Four standard deviations of 2,000 draws.
    assert abs(right / 2000 - stated) < 4 * (stated * (1 - stated) / 2000) ** 0.5
