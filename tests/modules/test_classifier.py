"""The classifier: its network, its augmentation, its images with their labels."""

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from pcgan_lightning.data import LabelledImageDataModule
from pcgan_lightning.modules import Classifier
from pcgan_lightning.modules.classifier import augment
from pcgan_lightning.networks import ImageClassifier


@pytest.mark.parametrize(("size", "channels", "classes", "width"), [(32, 3, 10, 16), (20, 1, 4, 2)])
def test_network(size, channels, classes, width):
    network = ImageClassifier(size, channels, classes, width)
    images = torch.randn(5, channels, size, size)
    features = network.features(images)
    assert features.shape == (5, 12 * width) == (5, network.feature_dim)
    assert torch.equal(network.linear(features), network(images))
    assert network(images).shape == (5, classes)
    twin = ImageClassifier(**network.init_args)
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin(images), network(images))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [width * n for n in (1, 2, 2, 6, 6, 12, 12)]


def test_network_arguments():
    with pytest.raises(ValueError, match="argument `image_size` must be at least 8, got 4"):
        ImageClassifier(image_size=4)
    with pytest.raises(ValueError, match=r"argument `images` must have shape \[N, 3, 32, 32\]"):
        ImageClassifier()(torch.zeros(1, 3, 16, 16))


def test_augmentation_shifts_and_mirrors():
    """Every result is one of the windows of the padded image, or its mirror image; channels stay together."""
    image = torch.arange(2 * 6 * 6, dtype=torch.float32).view(1, 2, 6, 6)
    padded = nn.functional.pad(image, [1] * 4, mode="reflect")[0]
    windows = [padded[:, y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    possible = windows + [w.flip(2) for w in windows]
    torch.manual_seed(0)
    found = augment(image.expand(500, -1, -1, -1), shift=1)
    which = [[n for n, window in enumerate(possible) if torch.equal(window, f)] for f in found]
    assert all(len(matches) == 1 for matches in which)
    counts = np.bincount([n for (n,) in which], minlength=18)
    # 500 draws of 18 equally likely: 27.8 on average, standard deviation 5.1; five of them.
    assert counts.min() > 2
    assert counts.max() < 54


def test_no_augmentation_without_shift_but_mirroring():
    image = torch.randn(40, 3, 4, 4)
    found = augment(image, shift=0)
    assert all(torch.equal(f, i) or torch.equal(f, i.flip(2)) for f, i in zip(found, image, strict=True))


@pytest.fixture
def labelled(tmp_path):
    """Images of one grey level each, which is ten times the label."""

    def write(name, labels):
        images = [PIL.Image.new("RGB", (8, 8), (10 * label,) * 3) for label in labels]
        features = datasets.Features(picture=datasets.Image(), kind=datasets.ClassLabel(10))
        table = datasets.Dataset.from_dict({"picture": images, "kind": labels}, features=features)
        table.to_parquet(tmp_path / f"{name}.parquet")

    write("train", [n % 10 for n in range(25)])
    write("test", [n % 7 for n in range(9)])
    return LabelledImageDataModule(str(tmp_path), label_column="kind", image_size=8, batch_size=4)


def batches_of(data, loader):
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_labels_belong_to_their_images(labelled):
    labelled.setup("fit")
    batches = batches_of(labelled, labelled.train_dataloader())
    assert [len(images) for images, _ in batches] == [4] * 6  # the last one of 25 is dropped
    for images, labels in batches:
        torch.testing.assert_close(images[:, 0, 0, 0], labels * 10 / 127.5 - 1)
        assert images.shape[1:] == (3, 8, 8)
    validation = batches_of(labelled, labelled.val_dataloader())
    assert torch.cat([labels for _, labels in validation]).tolist() == [n % 7 for n in range(9)]


def test_training_images_are_shuffled_anew(labelled):
    labelled.setup("fit")
    torch.manual_seed(0)
    first, second = (torch.cat([labels for _, labels in labelled.train_dataloader()]).tolist() for _ in range(2))
    assert first != second
    assert first != sorted(first)


def test_learning_rate_makes_one_cycle():
    classifier = Classifier(ImageClassifier(width=1), warmup=0.25)

    class Trainer:
        estimated_stepping_batches = 100

    classifier._trainer = Trainer()
    plan = classifier.configure_optimizers()
    optimizer, scheduler = plan["optimizer"], plan["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(99):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.2)
    assert rates.index(max(rates)) == 24
    assert rates[0] < 0.01 > optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup": 0.0}, r"argument `warmup` must be in \(0, 1\), got 0.0"),
        ({"label_smoothing": 1.0}, r"argument `label_smoothing` must be in \[0, 1\), got 1.0"),
        ({"shift": -1}, "argument `shift` must not be negative, got -1"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Classifier(ImageClassifier(width=1), **arguments)
