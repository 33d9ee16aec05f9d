"""A small image classifier, whose features and classes can score generated images without any download."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from pcgan_lightning.arguments import RecordsArguments, require_at_least
from pcgan_lightning.networks._common import require_shape


class ImageClassifier(RecordsArguments, nn.Module):
    """Map images ``[N, channels, image_size, image_size]`` in [-1, 1] to logits ``[N, classes]``.

    A 3x3 convolution of ``width`` channels, then three stages of 2, 6 and 12 times as many: each a 3x3 convolution, a
    2x2 maximum and another 3x3 convolution, with batch normalisation and ReLU. The maximum over all positions makes
    the features, a linear layer the logits.

    Args:
        image_size: height and width of the images, at least 8.
        channels: channels of the images.
        classes: number of classes.
        width: channels of the first convolution.

    Attributes:
        image_shape: ``(channels, image_size, image_size)``.
        feature_dim: size of a feature vector, ``12 * width``.
        init_args: the constructor's arguments.
    """

    def __init__(self, image_size: int = 32, channels: int = 3, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        require_at_least(1, channels=channels, classes=classes, width=width)
        require_at_least(8, image_size=image_size)
        self.image_shape = (channels, image_size, image_size)
        widths = (width, 2 * width, 6 * width, 12 * width)
        self.feature_dim = widths[-1]
        self.stem = _convolution(channels, width)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(_convolution(coarse, fine, halve=True), _convolution(fine, fine))
                for coarse, fine in pairwise(widths)
            )
        )
        self.linear = nn.Linear(self.feature_dim, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return feature vectors ``[N, feature_dim]``."""
        require_shape("images", images, self.image_shape)
        return adaptive_max_pool2d(self.stages(self.stem(images)), 1).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[N, classes]``."""
        return self.linear(self.features(images))


def _convolution(channels_in: int, channels_out: int, *, halve: bool = False) -> nn.Sequential:
    pool = [nn.MaxPool2d(2)] if halve else []
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), *pool, nn.BatchNorm2d(channels_out), nn.ReLU()
    )
