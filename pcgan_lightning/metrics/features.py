"""What images are scored by: the features and classes that a network sees in them."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Optional
from urllib.error import URLError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from typing_extensions import override

from pcgan_lightning.arguments import import_path
from pcgan_lightning.metrics.digit_classifier import DIGIT_SIZE, DigitClassifier
from pcgan_lightning.networks import ImageClassifier

SHIPPED_CLASSIFIER = Path(__file__).with_name("cifar10_classifier.safetensors")
_NOT_LOADED = "the weights of the features must be loaded before they see images: call `load()` first"


class Features(nn.Module):
    """Base of the features: images as uint8 -> feature vectors and, where there are classes, logits.

    Attributes:
        label: put before the names of scores, such as "classifier FID"; empty for Inception-v3 alone, whose scores
            bear the plain names.
        description: what they are, for people.
    """

    label: str = "module"
    description: str = ""

    def load(self) -> None:
        """Get the weights ready; called before anything is scored, and again to no effect.

        Raises:
            ValueError: for weights that do not fit.
            OSError: for weights that are missing or cannot be downloaded, with the place where to put them.
        """

    def extract(self, images: Tensor) -> tuple[Tensor, Optional[Tensor]]:
        """Return features ``[N, d]`` and logits ``[N, classes]`` (or None) of uint8 images ``[N, 3, H, W]``."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Optional[Tensor]]:
        """Return features ``[N, d]`` and logits ``[N, classes]`` (or None) in float32.

        Args:
            images: uint8, ``[N, 3, H, W]``, or ``[N, 1, H, W]``, which is taken as grey.
        """
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"argument `images` must be uint8 of shape [N, 1 or 3, H, W], got {images.dtype}, {list(images.shape)}"
            )
        features, logits = self.extract(images.expand(-1, 3, -1, -1))
        for name, found in (("features", features), ("logits", logits)):
            if found is not None and (found.dim() != 2 or len(found) != len(images)):
                raise ValueError(
                    f"argument `features` must make {name} of shape [N, d], got {list(found.shape)} for {len(images)} "
                    "images"
                )
        return features.float(), None if logits is None else logits.float()

    def fingerprint(self) -> str:
        """Return a digest that changes with the network and its weights."""
        digest = hashlib.blake2b(f"{import_path(type(self))}\n{self}".encode(), digest_size=16)
        # Buffers that are not saved count as well.
        for name, value in [*self.named_parameters(), *self.named_buffers()]:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


class InceptionFeatures(Features):
    """Inception-v3 as FID, inception score and KID are defined with, through torch-fidelity.

    2048 features of the last pooling, and 1008 logits without biases.

    Args:
        weights: a local file of torch-fidelity's Inception weights. None: they are downloaded once, to torch's hub
            folder.
    """

    label = ""
    description = "Inception-v3 of torch-fidelity"

    def __init__(self, weights: Optional[Path] = None) -> None:
        super().__init__()
        self.weights = weights
        self.network: Optional[FeatureExtractorInceptionV3] = None

    def load(self) -> None:
        """Read the weights, or download them first."""
        if self.network is not None:
            return
        downloaded = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
        path = self.weights or (downloaded if downloaded.is_file() else None)
        if path is not None and not path.is_file():
            raise FileNotFoundError(
                f"argument `weights` must be a file of Inception weights, got {path}, which does not exist; download "
                f"{URL_INCEPTION_V3} elsewhere and put it there, or to {downloaded} to need no argument"
            )
        try:
            if path is not None:
                torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would run what it holds
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], None if path is None else str(path), verbose=True
            )
        except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError) as error:
            raise ValueError(
                f"argument `weights` must be torch-fidelity's Inception weights, got {path or URL_INCEPTION_V3}: "
                f"{_first_line(error)}"
            ) from error
        except (URLError, OSError) as error:
            raise OSError(
                f"argument `weights` must be a local file where {URL_INCEPTION_V3} cannot be reached "
                f"({_first_line(error)}); download it elsewhere and put it to {downloaded}, or score with "
                "ClassifierFeatures, which needs no download"
            ) from error

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return 2048 features and 1008 logits; the network resizes the images to 299x299 itself."""
        if self.network is None:
            raise RuntimeError(_NOT_LOADED)
        return self.network(images)


class ClassifierFeatures(Features):
    """The features and classes of a small CIFAR-10 classifier of ours, for machines without a network connection.

    Its scores are called classifier FID, classifier score and so on, since they compare with nothing but themselves
    (Li et al., "Dualing GANs", 2017, score with a classifier of their own likewise). Images of another size are
    resized to 32x32.

    Args:
        weights: a safetensors file that ``pcgan classifier fit`` wrote. None: the one that comes with the package.
    """

    label = "classifier"

    def __init__(self, weights: Optional[Path] = None) -> None:
        super().__init__()
        self.weights = SHIPPED_CLASSIFIER if weights is None else Path(weights)
        self.network: Optional[ImageClassifier] = None

    def load(self) -> None:
        """Read the weights and the arguments of the network beside them."""
        if self.network is not None:
            return
        if not self.weights.is_file():
            raise FileNotFoundError(
                f"argument `weights` must be a file of classifier weights, got {self.weights}, which does not exist; "
                "put there what `pcgan classifier fit` writes"
            )
        try:
            with safe_open(self.weights, framework="pt") as file:
                metadata = file.metadata()
                network = ImageClassifier(**json.loads(metadata["init_args"]))
                network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"argument `weights` must be written by `pcgan classifier fit`, got {self.weights}: "
                f"{_first_line(error)}"
            ) from error
        self.description = f"classifier with {100 * float(metadata['accuracy']):.1f}% test accuracy"
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features before the last layer, and its logits."""
        if self.network is None:
            raise RuntimeError(_NOT_LOADED)
        scaled = images.float() / 127.5 - 1
        size = self.network.image_shape[1:]
        if tuple(images.shape[2:]) != size:
            scaled = interpolate(scaled, size, mode="bicubic", antialias=True).clamp(-1, 1)
        features = self.network.features(scaled.contiguous(memory_format=torch.channels_last))
        return features, self.network.linear(features)


class DigitFeatures(Features):
    """The hidden layer of 128 and the logits of ``DigitClassifier``, for images of digits; they are taken as grey.

    Its scores are called digit FID, digit score and so on.
    """

    label = "digit"

    def __init__(self) -> None:
        super().__init__()
        self.network = DigitClassifier()
        self.description = (
            f"digit classifier with {100 * (self.network.accuracy or 0):.1f}% accuracy on held out digits"
        )

    @override
    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        *hidden, last = self.network.layers
        grey = adaptive_avg_pool2d(images.float().mean(1, keepdim=True) / 127.5 - 1, DIGIT_SIZE)
        features = nn.Sequential(*hidden)(grey.flatten(1))
        return features, last(features)


class ModuleFeatures(Features):
    """The features of any network.

    Args:
        module: images ``[N, 3, H, W]``, float32 in [-1, 1] -> features ``[N, d]``, or features and logits
            ``[N, classes]``.
        label: put before the names of the scores.
    """

    def __init__(self, module: nn.Module, label: str = "module") -> None:
        super().__init__()
        if not label.isidentifier() or label == "inception":
            raise ValueError(f"argument `label` must be a word of letters other than 'inception', got {label!r}")
        self.label = label
        self.description = f"features of {type(module).__name__}"
        self.module = module

    def load(self) -> None:
        """Bring the network into evaluation mode."""
        self.module.eval()

    def extract(self, images: Tensor) -> tuple[Tensor, Optional[Tensor]]:
        """Return what the network makes of the images."""
        found = self.module(images.float() / 127.5 - 1)
        return found if isinstance(found, tuple) else (found, None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
