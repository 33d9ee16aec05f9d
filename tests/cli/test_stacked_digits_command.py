"""Stacked digits through the command: what the configs say, their runs, modes in `pcgan evaluate`, mistakes."""

import json
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.command import one_error, pcgan

from pcgan_lightning.spectra import fit_polynomial

pytestmark = pytest.mark.slow
CONFIGS = sorted((ROOT / "configs" / "stacked_digits").glob("*.yaml"))
QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--progress.refresh_every_n_steps=1000")
DEGREES = {"sn": 1, "fpc3": 3, "fpc5": 5, "fpc7": 7, "fpc9": 9}
SIMULTANEOUS = {"simgd": "SimGD", "conopt": "ConOpt", "jare": "JARE"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_config_says_what_the_benchmark_plans(config, resolve):
    resolved = resolve(config)
    model, data = resolved["model"]["init_args"], resolved["data"]["init_args"]
    assert resolved["run_dir"] == f"runs/stacked_digits/{config.stem}"
    assert (data["image_size"], data["batch_size"]) == (8, 64)
    assert resolved["trainer"]["max_steps"] == 5000
    for player, more in (("generator", {"latent_dim": 64}), ("discriminator", {"extra_convolutions": 0})):
        sizes = model[player]["init_args"]
        assert sizes["initialization"] == "torch"
        assert {"image_size": 8, "channels": 3, "width": None, **more}.items() <= sizes.items()
        assert model[f"{player}_scheduler"] is None
        if "nsgda" not in config.stem and (config.stem, player) != ("dualing", "discriminator"):
            optimizer = model[f"{player}_optimizer"]["init_args"]
            assert (optimizer["lr"], optimizer["betas"]) == (2e-4, [0.0, 0.9])
    assert model["ema_decay"] == 0
    if config.stem == "dualing":
        assert model["method"]["class_path"].endswith("ScoreLinearization")
    else:
        assert model["loss"]["class_path"].endswith("HingeLoss")
    if config.stem == "dualing":
        assert model["steps"] == 1
    elif config.stem in SIMULTANEOUS:
        assert model["method"]["class_path"].endswith(SIMULTANEOUS[config.stem])
    else:
        assert model["discriminator_first"]
        assert (model["discriminator_steps"], model["generator_steps"]) == (1, 1)
    preconditioning = resolved["preconditioning"]
    if config.stem in DEGREES:
        assert preconditioning["init_args"]["degree"] == DEGREES[config.stem]
    elif config.stem == "fpc17":
        coefficients = preconditioning["init_args"]["degree"]["coefficients"]
        # Least squares of powers up to 17 in float64 on other machines.
        assert coefficients == pytest.approx(fit_polynomial(0.15, 17).coefficients, rel=1e-4)
    else:
        assert (preconditioning is None) == (config.stem not in ("apc", "apc_goal", "svd"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_config_runs(config, monkeypatch, tmp_path):
    """One iteration; nothing is written."""
    monkeypatch.chdir(tmp_path)
    quiet = ("--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false")
    assert pcgan(monkeypatch, "fit", "--config", config, *QUIET, *quiet) == 0
    assert not [*tmp_path.iterdir()]


def test_evaluate_counts_the_modes_that_training_logged(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "run"
    config = Path("configs/stacked_digits/sn.yaml")
    monkeypatch.chdir(ROOT)
    assert pcgan(monkeypatch, "fit", "--config", config, *QUIET, "--trainer.max_steps=2", "--run_dir", folder) == 0
    capsys.readouterr()
    assert pcgan(monkeypatch, "evaluate", folder / "checkpoints" / "last.ckpt", "--modes=true") == 0
    printed = capsys.readouterr().out
    saved = json.loads((folder / "evaluations" / "last_modes_train.json").read_text())
    assert saved["protocol"] in printed
    assert "1,000 modes told by DigitClassifier with 98.7% test accuracy in 25,600 samples" in saved["protocol"]
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    for name, value in saved["scores"].items():
        (logged,) = [row[header.index(f"metric/{name}")] for row in rows if row[header.index(f"metric/{name}")]]
        # Other batches of samples round otherwise, which may move a sample or two to another mode.
        assert float(logged) == pytest.approx(value, rel=0.01)

    capsys.readouterr()
    status = pcgan(monkeypatch, "evaluate", folder / "checkpoints" / "last.ckpt", "--modes=true", "--count=999")
    assert status != 0
    assert "argument `count` must be at least the number of modes, 1,000, got 999" in one_error(capsys)
