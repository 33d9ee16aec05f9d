"""The fixed classifier of handwritten digits that counts the modes of stacked digits."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from pcgan_lightning.arguments import require_at_least

SHIPPED_DIGIT_CLASSIFIER = Path(__file__).with_name("digit_classifier.safetensors")
DIGIT_SIZE = 8  # of scikit-learn's digits


class DigitClassifier(nn.Module):
    """Map grey digits ``[N, 1, image_size, image_size]`` in [-1, 1] to logits ``[N, 10]``.

    Two hidden layers of 256 and 128 on the 8x8 pixels, with ReLU: 77,000 digits a quarter of a second on one core.
    Larger images are averaged down to 8x8 first. The weights come with the package, made by
    ``benchmarks/digit_classifier.py`` from five sixths of scikit-learn's digits; ``accuracy`` is the share of the other
    sixth that they tell right.

    Args:
        image_size: height and width of the images, at least 8.
        pretrained: whether to read the weights, or to leave them as torch's layers begin.

    Attributes:
        image_shape: ``(1, image_size, image_size)``.
        accuracy: on the digits held out; None where the weights were not read.

    Raises:
        ValueError: for images below 8x8.
    """

    def __init__(self, image_size: int = DIGIT_SIZE, pretrained: bool = True) -> None:
        super().__init__()
        require_at_least(DIGIT_SIZE, image_size=image_size)
        self.image_shape = (1, image_size, image_size)
        # Drawing weights that are overwritten at once must not move anyone's random state.
        with torch.random.fork_rng(devices=[], enabled=pretrained):
            self.layers = nn.Sequential(
                nn.Linear(DIGIT_SIZE**2, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
            )
        self.accuracy = self._read() if pretrained else None

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[N, 10]``."""
        return self.layers(adaptive_avg_pool2d(images, DIGIT_SIZE).flatten(1))

    def _read(self) -> float:
        with safe_open(SHIPPED_DIGIT_CLASSIFIER, framework="pt") as file:
            self.load_state_dict({name: file.get_tensor(name) for name in self.state_dict()})
            accuracy = float(file.metadata()["accuracy"])
        self.eval().requires_grad_(False)
        return accuracy
