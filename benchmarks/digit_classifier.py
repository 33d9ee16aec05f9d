"""Train the classifier of digits that comes with the package: seconds on one core, the same weights each time.

    python benchmarks/digit_classifier.py

It learns from five sixths of scikit-learn's 1,797 digits, turned, shifted and scaled at random, and is tested on the
others, every sixth one. Writes pcgan_lightning/metrics/digit_classifier.safetensors.
"""

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from pcgan_lightning.data.loaders import normalize
from pcgan_lightning.data.sources import digits_and_labels
from pcgan_lightning.metrics.digit_classifier import SHIPPED_DIGIT_CLASSIFIER, DigitClassifier

EPOCHS, BATCH_SIZE, RATE = 100, 50, 3e-3
HELD_OUT = 6  # every sixth digit


def images_and_labels() -> tuple[Tensor, Tensor]:
    pixels, labels = digits_and_labels()
    return normalize(torch.from_numpy(pixels).unsqueeze(1)), torch.from_numpy(labels).long()


def held_out(count: int) -> Tensor:
    """Return which digits are kept from training, bool ``[count]``."""
    return torch.arange(count) % HELD_OUT == HELD_OUT - 1


def accuracy(classifier: DigitClassifier) -> float:
    """Return the share of the digits held out that are told right."""
    images, labels = images_and_labels()
    test = held_out(len(images))
    return (classifier(images[test]).argmax(1) == labels[test]).double().mean().item()


def varied(images: Tensor) -> Tensor:
    """Turn by up to 10 degrees, scale by up to an eighth and shift by up to 0.8 pixels."""
    angle, scale, x, y = (torch.rand(4, len(images)) - 0.5).unbind()
    scale = 1 + scale / 4
    cosine, sine = torch.cos(0.35 * angle) * scale, torch.sin(0.35 * angle) * scale
    moves = torch.stack([cosine, -sine, 0.4 * x, sine, cosine, 0.4 * y], dim=1).view(-1, 2, 3)
    # Around the image is black, which is -1.
    return grid_sample(images + 1, affine_grid(moves, images.shape, align_corners=False), align_corners=False) - 1


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, labels = images_and_labels()
    training = (~held_out(len(images))).nonzero().flatten()
    classifier = DigitClassifier(pretrained=False)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=RATE)
    steps = EPOCHS * (len(training) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in training[torch.randperm(len(training))].split(BATCH_SIZE)[: len(training) // BATCH_SIZE]:
            optimizer.zero_grad()
            cross_entropy(classifier(varied(images[chosen])), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    found = accuracy(classifier.eval())
    save_file(classifier.state_dict(), SHIPPED_DIGIT_CLASSIFIER, {"accuracy": f"{found:.6f}"})
    print(f"{100 * found:.2f}% of {int(held_out(len(images)).sum())} held-out digits")


if __name__ == "__main__":
    main()
