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


def test_mistakes_end_in_one_line(monkeypatch, capsys):
    call = ("fit", "--config", CONFIGS[0].with_name("cifar10_scores.yaml"), *QUIET, *LOCAL, *NARROW)
    assert pcgan(monkeypatch, *call, "--model.method.trust_region=0") != 0
    assert "argument `trust_region` must be positive, got 0" in one_error(capsys)
