"""What scoring costs beyond the feature extractor: generation, statistics, FID, score, KID, precision and recall.

    python benchmarks/scoring.py --features inception --save

Generates images with an untrained ResNet generator of the paper's width and scores them against CIFAR-10-like noise,
all in one run; the clock of the feature extractor runs along. Inception gets random weights: its time does not depend
on them.
"""

import argparse
import time
from typing import Any
from unittest.mock import patch

import torch
from results_file import save_result
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from pcgan_lightning.data import to_uint8
from pcgan_lightning.metrics import ClassifierFeatures, Features, GenerativeScores, InceptionFeatures, score_generator
from pcgan_lightning.metrics.reference import statistics
from pcgan_lightning.networks import ResNetGenerator


def inception() -> InceptionFeatures:
    """Return Inception-v3 with random weights."""
    features = InceptionFeatures()
    with (
        patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", return_value={}),
        patch.object(FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        features.load()
    return features


class Clock:
    """Adds up the time of the calls of a function."""

    def __init__(self, function: Any, device: torch.device) -> None:
        self.function, self.device, self.seconds = function, device, 0.0

    def __call__(self, *arguments: Any) -> Any:
        started = self.now()
        result = self.function(*arguments)
        self.seconds += self.now() - started
        return result

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--features", nargs="+", choices=("inception", "classifier"), default=["inception", "classifier"]
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=256, help="of the generator")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/scoring.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    generator = ResNetGenerator(width=arguments.width).eval().to(device)
    result = {name: measure(name, generator, arguments) for name in arguments.features}
    for name, row in result.items():
        print(
            f"{name}: {arguments.count:,} images scored in {row['seconds']:.1f} s, features alone "
            f"{row['extractor_seconds']:.1f} s, ratio {row['seconds'] / row['extractor_seconds']:.3f}; "
            f"{row['generator_seconds']:.1f} s of the rest are the generator's"
        )
    if arguments.save:
        settings = {key: value for key, value in vars(arguments).items() if key != "save"}
        print("saved", save_result("scoring", settings, result).name)


def measure(name: str, generator: ResNetGenerator, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the times of one scoring."""
    device = torch.device(arguments.device)
    features: Features = inception() if name == "inception" else ClassifierFeatures()
    metric = GenerativeScores(features).to(device)
    size = features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=device))[0].shape[1]
    metric.reference = statistics(torch.randn(arguments.count, size))
    extractor = Clock(features.extract, device)
    features.extract = extractor
    generate = Clock(lambda numbers: images(generator, len(numbers), device), device)
    started = extractor.now()
    score_generator(metric, generate, arguments.count, arguments.batch_size, progress=True)
    seconds = extractor.now() - started
    return {"seconds": seconds, "extractor_seconds": extractor.seconds, "generator_seconds": generate.seconds}


def images(generator: ResNetGenerator, count: int, device: torch.device) -> Tensor:
    return to_uint8(generator(torch.randn(count, generator.latent_dim, device=device)))


if __name__ == "__main__":
    main()
