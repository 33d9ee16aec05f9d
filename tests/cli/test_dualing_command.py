"""Experiments with Dualing GANs through the command."""

import pytest
import yaml
from helpers import ROOT
from helpers.command import one_error, pcgan

pytestmark = pytest.mark.slow
CONFIGS = sorted((ROOT / "configs" / "dualing").glob("*.yaml"))
METHODS = {"linear": "LinearDual", "scores": "ScoreLinearization", "cost": "CostLinearization"}
QUIET = ("--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu")
LOCAL = ("--data.source=digits", "--data.validation_split=null", "--data.batch_size=4")
NARROW = [f"--model.{player}.{size}" for player in ("generator", "discriminator") for size in ("width=1", "channels=1")]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_config_says_and_does_what_its_name_says(config, fit_parser, monkeypatch, tmp_path):
    """And one iteration runs on local data; nothing is written."""
    resolved = yaml.safe_load(fit_parser.dump(fit_parser.parse_args(["--config", str(config)]), skip_none=False))
    data, _, method = config.stem.partition("_")
    model = resolved["model"]["init_args"]
    assert resolved["run_dir"] == f"runs/dualing/{config.stem}"
    assert resolved["model"]["class_path"].endswith(".DualingGAN" if method in METHODS else ".GAN")
    if method in METHODS:
        assert model["method"]["class_path"].endswith(METHODS[method])
    assert model["discriminator"]["class_path"].endswith(
        "DCGANDiscriminator" if data == "cifar10" else "LinearDiscriminator"
    )
    assert resolved["data"]["init_args"].get("modes", 8) == (5 if data == "mixture5" else 8)
    monkeypatch.chdir(tmp_path)
    local = (*LOCAL, *NARROW) if data == "cifar10" else ()
    assert pcgan(monkeypatch, "fit", "--config", config, *QUIET, *local) == 0
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ("cifar10_scores", ["--model.method.trust_region=0"], "argument `trust_region` must be positive, got 0"),
        ("digits_linear", ["--model.method.weight_decay=-1"], "argument `weight_decay` must be positive, got -1"),
        ("digits_linear", ["--model.discriminator=torch.nn.Flatten"], "must have parameters to train, got Flatten"),
        (
            "digits_linear",
            [f"--model.discriminator.features{end}" for end in ("=torch.nn.Flatten", ".start_dim=0")],
            "argument `features` must give [N, D], got (4,) of 2 images and (6,) of 3",
        ),
        ("mixture5_linear", ["--data.batch_size=1"], "argument `batch_size` of the data must be at least 2"),
        (
            "digits_linear",
            ["--trainer.precision=bf16-true"],
            "argument `discriminator` must have at least 32 bits for LinearDual, got torch.bfloat16",
        ),
    ],
)
def test_mistakes_end_in_one_line(config, arguments, message, monkeypatch, tmp_path, capsys):
    """Before training: no run has claimed its folder."""
    local = (*LOCAL, *NARROW) if config.startswith("cifar10") else ()
    call = ("fit", "--config", CONFIGS[0].with_name(f"{config}.yaml"), "--run_dir", tmp_path / "run", *local)
    assert pcgan(monkeypatch, *call, "--trainer.accelerator=cpu", *arguments) != 0
    assert message in one_error(capsys)
    assert not (tmp_path / "run" / "config.yaml").exists()
