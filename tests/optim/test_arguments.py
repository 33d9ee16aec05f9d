"""What the optimizers refuse."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from pcgan_lightning.optim import NSGDA, AdaDir, AdaNSGDA, Grafted

FIRST = "first.weight", nn.Parameter(torch.zeros(2))
SECOND = "second.weight", nn.Parameter(torch.zeros(2))
SGD = partial(torch.optim.SGD, lr=1.0)
KINDS = {
    "NSGDA": NSGDA,
    "AdaNSGDA": AdaNSGDA,
    "AdaDir": AdaDir,
    "Grafted": partial(Grafted, magnitude=SGD, direction=SGD),
}
TWICE = [{"params": [FIRST]}, {"params": [(FIRST[0], SECOND[1])]}]


def sparse_update(kind):
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    kind(embedding.parameters()).step()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda kind: kind([FIRST], eps=-1.0), "argument `eps` must not be negative, got -1"),
        (lambda kind: kind([{"params": [FIRST], "lr": -0.1}]), "argument `lr` must not be negative, got -0.1"),
        (lambda kind: kind([FIRST], scope="net"), "argument `scope` must be one of global, layer, tensor, got 'net'"),
        (lambda kind: kind([FIRST[1]], scope="layer"), "argument `params` must be named for scope 'layer'"),
        (sparse_update, "argument `params` must have dense gradients, got sparse ones"),
    ],
)
def test_refused_by_all(kind, make, message):
    with pytest.raises(ValueError, match=message):
        make(kind)


def scaled(scales, parameters=(FIRST, SECOND)):
    if isinstance(scales, str) and scales[0] in "{[":
        Path("scales.json").write_text(scales)
        scales = "scales.json"
    return NSGDA(parameters, layer_scales=scales)


SCALES = "argument `layer_scales` must"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NSGDA([FIRST], lr=float("inf")), "argument `lr` must be finite, got inf"),
        (lambda: AdaNSGDA([FIRST], betas=(0.0, 1.0)), r"argument `betas\[1\]` must be in \[0, 1\), got 1.0"),
        (lambda: AdaDir([{"params": [FIRST], "betas": (2.0, 0.9)}]), r"`betas\[0\]` must be in \[0, 1\), got 2.0"),
        (lambda: AdaNSGDA([FIRST], betas=(0, 0.5, 0.9)), r"`betas` must be two numbers, got \(0, 0.5, 0.9\)"),
        (lambda: AdaDir([FIRST], oracle="adamw"), "argument `oracle` must be one of adam, paper, got 'adamw'"),
        (lambda: Grafted([FIRST], torch.optim.AdamW, SGD), "`magnitude` must not decay weights, got AdamW that does"),
        (lambda: Grafted([{"params": [FIRST], "betas": 0.9}], SGD, SGD), "groups with `lr` and `eps` alone, got betas"),
        (lambda: Grafted([FIRST], SGD, SGD).add_param_group({"params": [SECOND]}), "Grafted takes no further"),
        (lambda: NSGDA(TWICE, scope="layer"), "must have names of their own, got 'first.weight' in two groups"),
        (lambda: scaled({"first": 1.0}, [FIRST[1]]), "named for scope 'layer' and for layer scales"),
        (
            lambda: scaled({"first": 1.0}, [FIRST]).add_param_group({"params": [SECOND]}),
            "NSGDA with `layer_scales` takes no further parameters",
        ),
        (lambda: scaled("missing.json"), f"{SCALES} be a JSON file, got .*missing.json, which does not exist"),
        (lambda: scaled("."), f"{SCALES} be a JSON file, got .*, which is a folder"),
        (lambda: scaled("{"), f"{SCALES} be a JSON file, got .*: Expecting"),
        (lambda: scaled("[1, 2]"), f"{SCALES} be a JSON mapping of layers to numbers"),
        (lambda: scaled('{"first": "two"}'), f"{SCALES} map layers to numbers"),
        (lambda: scaled({"first": 1, "third": 1}), r"got none for \['second'\] and some for unknown \['third'\]"),
        (
            lambda: scaled({"first": -1.0, "second": 1.0}),
            re.escape("argument `layer_scales['first']` must not be negative, got -1.0"),
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises((ValueError, NotImplementedError, FileNotFoundError), match=message):
        make()
