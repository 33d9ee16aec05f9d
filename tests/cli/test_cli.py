"""The command line: configs, run folders, generation, mistakes."""

import csv
import importlib.util
import shutil

import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT
from helpers.command import one_error, pcgan, quickstart
from PIL import Image

CONFIGS = sorted((ROOT / "configs" / "pcgan").glob("*.yaml"))
NSGDA_CONFIGS = sorted((ROOT / "configs" / "nsgda").glob("*.yaml"))
JARE_CONFIGS = sorted((ROOT / "configs" / "jare").glob("cifar10_*.yaml"))


def parquet_like(resolved, folder):
    """A local stand-in for a config's hub dataset: real files of the right size, kind and column."""
    import datasets

    size = resolved["data"]["init_args"]["image_size"]
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(6)]
    table = datasets.Dataset.from_dict({"image": images}, features=datasets.Features(image=datasets.Image()))
    path = folder / f"{size}.parquet"
    table.to_parquet(path)
    return path


def config_of(path):
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def resolve(fit_parser):
    """Return what `pcgan fit --config FILE --print_config` says."""
    parsed = lambda config: fit_parser.parse_args(["--config", str(config)])  # noqa: E731
    return lambda config: yaml.safe_load(fit_parser.dump(parsed(config), skip_none=False))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_config_parses(config, resolve):
    """Every shipped experiment resolves, and is what its name says."""
    resolved = resolve(config)
    dataset, architecture, *_ = config.stem.split("_")
    method = config.stem.rpartition("_")[2]
    model, preconditioning = resolved["model"]["init_args"], resolved["preconditioning"]
    assert (model["penalty"] is None) == (method != "svd")
    if method == "svd":
        assert preconditioning["init_args"] == {"target": "discriminator"}
        assert preconditioning["class_path"].endswith("SVDParametrization")
        assert model["penalty"]["init_args"] == {"weight": 10.0, "spectrum_weight": 0.1}
    elif method == "apc-goal":
        assert {"goal": 5.0, "degrees": [1, 3, 5, 7, 9, 17]}.items() <= preconditioning["init_args"].items()
    elif method == "apc":
        assert preconditioning["class_path"].endswith("AdaptivePreconditioning")
        assert preconditioning["init_args"]["thresholds"] == [5.0, 10.0, 20.0, 30.0]
        assert preconditioning["init_args"]["every_n_steps"] == 1000
    else:
        assert preconditioning["class_path"].endswith("FixedPreconditioning")
        assert preconditioning["init_args"]["degree"] == {"sn": 1, "fpc3": 3, "fpc7": 7}[method]
    assert resolved["run_dir"] == f"runs/pcgan/{config.stem}"
    assert model["discriminator_steps"] == (5 if "_5-1_" in config.stem else 1)
    family = "ResNet" if architecture == "resnet" else "CNN"
    assert model["discriminator"]["class_path"].endswith(f"{family}Discriminator")
    assert model["loss"]["class_path"].endswith("HingeLoss" if family == "ResNet" else "NonSaturatingLoss")
    betas = [0.0, 0.9] if "_resnet_5-1_" in config.stem else [0.5, 0.999]
    # LSUN: constant up to iteration 50,000 of 200,000.
    start = {"cifar10": 0.5, "stl10": 0.75, "lsun": 0.25}[dataset]
    for player in ("generator", "discriminator"):
        assert model[f"{player}_optimizer"]["init_args"]["betas"] == betas
        assert model[f"{player}_scheduler"]["init_args"]["start"] == start
    if dataset == "lsun":
        assert model["generator"]["init_args"]["initialization"] == "xavier_normal"
        assert model["generator"]["init_args"]["linear_batch_norm"]
    size = {"cifar10": 32, "stl10": 48, "lsun": 0}[dataset] or int(config.stem.split("_")[-2])
    assert {resolved["data"]["init_args"]["image_size"], model["generator"]["init_args"]["image_size"]} == {size}


@pytest.mark.parametrize(("name", "betas"), [("betas_0", [0.0, 0.9]), ("betas_0.5", [0.5, 0.999])])
def test_betas_are_one_line(fit_parser, name, betas):
    """A second configuration on the command's line."""
    experiment = ROOT / "configs" / "pcgan" / f"cifar10_resnet_{'5-1' if betas[0] else '1-1'}_sn.yaml"
    chosen = ROOT / "configs" / "shared" / f"{name}.yaml"
    parsed = fit_parser.parse_args(["--config", str(experiment), "--config", str(chosen)])
    model = yaml.safe_load(fit_parser.dump(parsed, skip_none=False))["model"]["init_args"]
    for player in ("generator", "discriminator"):
        assert model[f"{player}_optimizer"]["init_args"]["betas"] == betas
        assert model[f"{player}_scheduler"]["class_path"].endswith("LinearDecay")  # what it does not name stays


@pytest.mark.parametrize("config", NSGDA_CONFIGS, ids=lambda p: p.stem)
def test_nsgda_config_parses(config, resolve):
    """WGAN-GP as Gulrajani et al. train it, or DCGAN, with the optimizer that the name says for both players."""
    resolved = resolve(config)
    wgan_gp = "_wgan_gp_" in config.stem
    dataset, _, rule = config.stem.partition("_wgan_gp_" if wgan_gp else "_dcgan_")
    kinds = {"adam": "Adam", "ada_nsgda": "AdaNSGDA", "ada_dir": "AdaDir", "nsgda": "NSGDA", "sgda": "SGD"}
    model = resolved["model"]["init_args"]
    for player in ("generator", "discriminator"):
        optimizer = model[f"{player}_optimizer"]
        assert optimizer["class_path"].rpartition(".")[2] == kinds[rule]
        assert optimizer["init_args"].get("scope") == ("layer" if rule in ("ada_nsgda", "ada_dir", "nsgda") else None)
        decay = {"total_iterations": 100_000, "start": 0.0}
        assert (model[f"{player}_scheduler"] or {}).get("init_args") == (decay if wgan_gp else None)
        assert model[player]["class_path"].rpartition(".")[2].startswith("ResNet" if wgan_gp else "DCGAN")
        assert model[player]["init_args"]["image_size"] == {"cifar10": 32, "stl10": 48}[dataset]
    assert (model["penalty"] or {}).get("init_args") == ({"weight": 10.0} if wgan_gp else None)
    assert model["discriminator_steps"] == (5 if wgan_gp else 1)
    assert model["loss"]["class_path"].endswith("WassersteinLoss" if wgan_gp else "NonSaturatingLoss")
    assert resolved["run_dir"] == f"runs/nsgda/{config.stem}"


def test_jare_configs_are_all_there():
    """Six networks with four methods."""
    names = {f"cifar10_{network}_{method}" for network in "abcdef" for method in ("gan", "conopt", "sn", "jare")}
    assert {path.stem for path in JARE_CONFIGS} == names


@pytest.mark.parametrize("config", JARE_CONFIGS, ids=lambda p: p.stem)
def test_jare_config_parses(config, resolve):
    """Facts of the authors' code: the networks, non-saturating loss, 1e-4, beta1 0.5, batch 64, z 128, gamma."""
    resolved = resolve(config)
    _, network, method = config.stem.split("_")
    model = resolved["model"]["init_args"]
    assert resolved["model"]["class_path"].endswith(".SimultaneousGAN")
    assert model["loss"]["class_path"].endswith(".NonSaturatingLoss")

    family = "CNN" if network in "ab" else "ConstantWidth"
    for player in ("generator", "discriminator"):
        assert model[player]["class_path"].rpartition(".")[2] == f"{family}{player.capitalize()}"
        assert model[player]["init_args"]["width"] in (64, None)  # of the CNNs, None is 64
        assert model[player]["init_args"].get("residual", False) == (network in "ef")
        kind = model[f"{player}_optimizer"]["class_path"].rpartition(".")[2]
        assert kind == ("RMSprop" if network == "d" else "Adam")
        assert model[f"{player}_optimizer"]["init_args"]["lr"] == 1e-4
        assert model[f"{player}_optimizer"]["init_args"].get("betas", [0.5, 0.999]) == [0.5, 0.999]
    assert model["generator"]["init_args"]["latent_dim"] == 128
    assert model["generator"]["init_args"].get("batch_norm") == {"a": True, "b": False}.get(network)
    assert model["generator"]["init_args"].get("final_convolution", False) == (network == "f")

    kind = model["method"]["class_path"].rpartition(".")[2]
    assert kind == {"conopt": "ConOpt", "jare": "JARE"}.get(method, "SimGD")
    gamma, players = (model["method"].get("init_args", {}).get(key) for key in ("gamma", "players"))
    assert (gamma, players) == {"conopt": (10.0, "both"), "jare": (100.0, "both")}.get(method, (None, None))
    assert ((resolved["preconditioning"] or {}).get("init_args") or {}).get("degree") == (1 if method == "sn" else None)
    assert resolved["data"]["init_args"]["batch_size"] == 64
    assert resolved["run_dir"] == f"runs/jare/{config.stem}"


def pieces(config):
    """All that a config is composed of: its dataset, networks, methods, optimizers, losses, callbacks and settings."""

    def leaves(content, key=""):
        if isinstance(content, dict):
            return {leaf for name, value in content.items() for leaf in leaves(value, f"{key}.{name}")}
        if isinstance(content, list):
            return {leaf for value in content for leaf in leaves(value, key)}
        return {(key, str(content))}

    return {leaf for leaf in leaves(config_of(config)) if leaf[0] not in (".run_dir", ".trainer.max_steps")}


def covering(configs):
    """Return as few configs as a greedy choice finds, with all pieces of all."""
    chosen, missing = [], set().union(*map(pieces, configs))
    while missing:
        chosen.append(max(configs, key=lambda config: len(pieces(config) & missing)))
        missing -= pieces(chosen[-1])
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("config", covering(CONFIGS + NSGDA_CONFIGS + JARE_CONFIGS), ids=lambda p: p.stem)
def test_config_runs(config, resolve, monkeypatch, tmp_path):
    """One iteration with every piece of an experiment, at tiny width, on local images; nothing is written."""
    source = parquet_like(resolve(config), tmp_path)
    monkeypatch.chdir(tmp_path)
    discriminator_steps = 5 if "_5-1_" in config.stem or "wgan_gp" in config.stem else 1
    status = pcgan(
        monkeypatch,
        *("fit", "--config", config, "--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"),
        *("--model.generator.width=1", "--model.discriminator.width=1", "--trainer.enable_model_summary=false"),
        *("--data.source", source, "--data.split=train", "--data.validation_split=null", "--data.streaming=null"),
        *("--data.batch_size", 6 // discriminator_steps, "--trainer.enable_progress_bar=false"),
    )
    assert status == 0
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_saved_config_is_whole(resolve, monkeypatch, tmp_path):
    """A config composed from pieces is saved as one file, from which the run can be made again elsewhere."""
    config = ROOT / "configs" / "pcgan" / "cifar10_resnet_1-1_apc.yaml"
    source = parquet_like(resolve(config), tmp_path)
    common = ("--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.max_steps=1")
    data = ("--data.source", source, "--data.validation_split=null", "--data.batch_size=4")
    width = ("--model.generator.width=1", "--model.discriminator.width=1")
    first, second = tmp_path / "first", tmp_path / "second"
    assert pcgan(monkeypatch, "fit", "--config", config, *common, *data, *width, "--run_dir", first) == 0
    assert [p.name for p in first.glob("*.yaml")] in (["config.yaml", "hparams.yaml"], ["hparams.yaml", "config.yaml"])
    (tmp_path / "alone").mkdir()
    alone = shutil.copy(first / "config.yaml", tmp_path / "alone")
    assert pcgan(monkeypatch, "fit", "--config", alone, "--run_dir", second) == 0
    assert config_of(second / "config.yaml")["model"] == config_of(first / "config.yaml")["model"]


def test_quickstart_leaves_everything(finished):
    files = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "metrics.csv",
        "checkpoints/last.ckpt",
        "samples/iteration_0000000.png",
        "samples/iteration_0000004.png",
        "spectra/singular_values.png",
        "spectra/condition_numbers.png",
    } <= files
    assert config_of(finished / "config.yaml")["trainer"]["max_steps"] == 4
    assert torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_run_is_never_overwritten(finished, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    assert quickstart(monkeypatch, finished) == 1
    assert "`run_dir` must not hold a run yet" in one_error(capsys)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


@pytest.mark.slow
def test_run_is_continued_in_its_folder(finished, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    assert (
        quickstart(monkeypatch, folder, "--trainer.max_steps=6", "--ckpt_path=last", "--trainer.log_every_n_steps=1")
        == 0
    )
    with (folder / "metrics.csv").open() as file:
        steps = [int(float(row["step"])) for row in csv.DictReader(file) if row["loss/generator"]]
    assert steps == [5, 6]  # the first part logged every tenth iteration: none of its four
    with (folder / "metrics.csv").open() as file:
        assert [int(float(r["step"])) for r in csv.DictReader(file) if r["condition/max"]] == [0, 4, 6]
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert (folder / "config.yaml").read_text() == (finished / "config.yaml").read_text()
    assert config_of(folder / "config_1.yaml")["trainer"]["max_steps"] == 6


@pytest.mark.slow
def test_generate_files_and_grid(finished, monkeypatch, tmp_path):
    checkpoint = finished / "checkpoints" / "last.ckpt"
    common = ("generate", checkpoint, "--seed=3")
    assert pcgan(monkeypatch, *common, "--count=5", "--output", tmp_path / "five") == 0
    assert pcgan(monkeypatch, *common, "--count=3", "--batch_size=2", "--output", tmp_path / "three") == 0
    assert pcgan(monkeypatch, *common, "--count=3", "--averaged=false", "--output", tmp_path / "raw") == 0
    assert pcgan(monkeypatch, *common, "--count=9", "--grid=true", "--output", tmp_path / "grid.png") == 0
    read = lambda folder, n: np.asarray(Image.open(tmp_path / folder / f"{n:06d}.png"))  # noqa: E731
    assert sorted(p.name for p in (tmp_path / "five").iterdir()) == [f"{n:06d}.png" for n in range(5)]
    for n in range(3):
        # Neither the count nor the batch size changes what a number shows (up to rounding of the last bit).
        assert np.abs(read("five", n).astype(int) - read("three", n)).max() <= 1
        assert not np.array_equal(read("five", n), read("raw", n))
    assert read("five", 0).shape == (32, 32)
    assert Image.open(tmp_path / "grid.png").size == (2 * (3 * 34 + 2),) * 2


@pytest.mark.slow
def test_evaluation_subcommands(finished, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    for subcommand in ("validate", "test"):
        status = pcgan(
            monkeypatch,
            *(subcommand, "--config", finished / "config.yaml", "--data.validation_split=test", "--ckpt_path=last"),
        )
        assert status == 0
        assert "loss/discriminator" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_missing_logger_package(monkeypatch, tmp_path, capsys):
    assert importlib.util.find_spec("comet_ml") is None, "choose another package that is not installed"
    assert quickstart(monkeypatch, tmp_path / "run", "--trainer.logger=CometLogger") == 1
    assert "CometLogger needs the package comet_ml, which is not installed: pip install comet_ml" in one_error(capsys)


@pytest.mark.slow
def test_wandb_beside_the_run_folder(monkeypatch, tmp_path):
    logger = ["--trainer.logger=WandbLogger", "--trainer.logger.offline=true"]
    assert quickstart(monkeypatch, tmp_path / "run", *logger) == 0
    assert (tmp_path / "run" / "metrics.csv").exists()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))


def test_generate_refuses_what_exists(finished, monkeypatch, tmp_path, capsys):
    (tmp_path / "photo.png").write_bytes(b"mine")
    checkpoint = finished / "checkpoints" / "last.ckpt"
    assert pcgan(monkeypatch, "generate", checkpoint, "--output", tmp_path) == 1
    assert "`output` must not exist yet or be an empty folder" in one_error(capsys)
    assert pcgan(monkeypatch, "generate", tmp_path / "no.ckpt") == 1
    assert "`checkpoint` must be a whole checkpoint file, got" in one_error(capsys)
    assert pcgan(monkeypatch, "generate", ROOT / "README.md", "--output", tmp_path / "out") == 1
    assert "`checkpoint` must be a whole checkpoint, got" in one_error(capsys)
