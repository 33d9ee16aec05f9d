"""The mixture of Gaussians through the command."""

import csv

import pytest
from helpers import ROOT
from helpers.command import pcgan
from PIL import Image

pytestmark = pytest.mark.slow

CONFIGS = sorted((ROOT / "configs" / "jare").glob("mixture_*.yaml"))
CONFIG = CONFIGS[0].with_name("mixture_jare.yaml")
TINY = [
    *("--model.generator.width=8", "--model.discriminator.width=8", "--trainer.max_steps=4", "--samples.count=50"),
    *("--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--progress.refresh_every_n_steps=1000"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the config, made tiny."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert pcgan(monkeypatch, "fit", "--config", CONFIG, *TINY, "--run_dir", folder) == 0
    return folder


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_config_is_the_papers_mixture(config, resolve):
    """Facts of the authors' code: sizes, RMSProp at 1e-4, batch 128, 20,000 steps, minimax loss; gamma of the talk."""
    resolved = resolve(config)
    model, data = resolved["model"]["init_args"], resolved["data"]["init_args"]
    sizes = {"image_shape": [2], "width": 256, "hidden_layers": 4, "initialization": "xavier_uniform"}
    assert model["discriminator"]["init_args"] == sizes
    assert model["generator"]["init_args"] == sizes | {"latent_dim": 64, "latent_scale": 2.0}
    assert (data["modes"], data["radius"], data["std"], data["batch_size"]) == (8, 2.0, 0.06, 128)
    for player in ("generator", "discriminator"):
        optimizer = model[f"{player}_optimizer"]
        assert optimizer["class_path"].endswith("RMSprop")
        assert [optimizer["init_args"][name] for name in ("lr", "alpha", "eps")] == [1e-4, 0.9, 1e-5]
    assert model["loss"]["class_path"].endswith(".SaturatingLoss")
    assert resolved["trainer"]["max_steps"] == 20_000
    assert resolved["run_dir"] == f"runs/jare/{config.stem}"
    method = {
        "gan": None,
        "simgd": "SimGD",
        "conopt": "ConOpt",
        "jare": "JARE",
        "sga": "SymplecticGradientAdjustment",
        "extragradient": "ExtraGradient",
    }[config.stem.rpartition("_")[2]]
    assert resolved["model"]["class_path"].rpartition(".")[2] == ("SimultaneousGAN" if method else "GAN")
    if method:
        assert model["method"]["class_path"].rpartition(".")[2] == method
        regularised = {"gamma": 10.0, "players": "both"}
        arguments = {"SimGD": {}, "ExtraGradient": {}, "SymplecticGradientAdjustment": {"strength": 1.0, "align": True}}
        assert model["method"].get("init_args", {}) == arguments.get(method, regularised)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_config_runs(config, monkeypatch, tmp_path):
    """One iteration at tiny width; nothing is written."""
    monkeypatch.chdir(tmp_path)
    quiet = ("--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false")
    assert pcgan(monkeypatch, "fit", "--config", config, *TINY, *quiet) == 0
    assert not [*tmp_path.iterdir()]


def test_run_leaves_pictures_and_modes(finished):
    files = {p.relative_to(finished).as_posix() for p in finished.rglob("*.*") if p.is_file()}
    assert {
        "config.yaml",
        "checkpoints/last.ckpt",
        "samples/iteration_0000000.png",
        "samples/iteration_0000004.png",
        "spectra/singular_values.png",
        "spectra/condition_numbers.png",
    } <= files
    with (finished / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric/modes_covered"]]
    assert [int(float(row["step"])) for row in rows] == [4]


def test_generate_draws_points(finished, monkeypatch, tmp_path, capsys):
    checkpoint = finished / "checkpoints" / "last.ckpt"
    picture = tmp_path / "points.png"
    assert pcgan(monkeypatch, "generate", checkpoint, "--grid=true", "--count=50", "--output", picture) == 0
    assert Image.open(picture).size == Image.open(finished / "samples" / "iteration_0000004.png").size
    assert pcgan(monkeypatch, "generate", checkpoint, "--output", tmp_path / "points") == 1
    assert "argument `grid` must be true for a generator of points" in capsys.readouterr().err
    assert not (tmp_path / "points").exists()
