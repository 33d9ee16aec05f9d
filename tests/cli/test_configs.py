"""The experiments of configs/: each is composed of the pieces that its name tells, each piece says what its paper does.

What the pieces say is asked of as few experiments as have all of them; `pcgan` is the parser's judge of those.
"""

import re
from collections import Counter

import datasets
import numpy as np
import pytest
import yaml
from helpers import ROOT
from helpers.command import pcgan
from PIL import Image

FOLDER = ROOT / "configs"
PCGAN = sorted((FOLDER / "pcgan").glob("*.yaml"))
NSGDA = sorted((FOLDER / "nsgda").glob("*.yaml"))
SPECTRA = sorted((FOLDER / "convolution_spectra").glob("*.yaml"))
JARE = sorted((FOLDER / "jare").glob("cifar10_*.yaml"))


def config_of(path):
    return yaml.safe_load(path.read_text())


def expanded(pattern):
    """`a_{b,c}.yaml` -> a_b.yaml, a_c.yaml."""
    head, brace, rest = pattern.partition("{")
    options, _, tail = rest.partition("}")
    return [head + option + tail for option in options.split(",")] if brace else [pattern]


def test_every_experiment_is_in_the_table_once():
    rows = [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| ")]
    listed = Counter(
        name for row in rows for pattern in re.findall(r"`([^`]*\.yaml)`", row) for name in expanded(pattern)
    )
    files = (path.relative_to(FOLDER) for path in FOLDER.rglob("*.yaml"))
    assert listed == Counter(path.as_posix() for path in files if path.parts[0] != "shared")


def piece(name):
    return f"../shared/{name}.yaml"


def pcgan_pieces(stem):
    """DATASET_NETWORK_UPDATES_METHOD, or lsun_ROOM_SIZE_METHOD."""
    experiment, _, method = stem.rpartition("_")
    lsun, dataset = experiment.startswith("lsun"), experiment.partition("_")[0]
    model = f"lsun_{experiment.rpartition('_')[2]}" if lsun else experiment
    pieces = {"data": experiment if lsun else dataset, "model": model, "preconditioning": method.replace("-", "_")}
    more = {"config": piece("svd_penalty")} if method == "svd" else {}
    return {key: piece(name) for key, name in pieces.items()} | more


def nsgda_pieces(stem):
    """DATASET_FAMILY_RULE."""
    dataset, family, rule = re.fullmatch("(cifar10|stl10)_(wgan_gp|dcgan)_(.*)", stem).groups()
    own = {"ada_nsgda": f"{family}_ada_nsgda", "ada_dir": f"{family}_ada_dir"}
    own["adam"] = "wgan_gp_adam" if family == "wgan_gp" else "adam_0.5"
    optimizers = dict.fromkeys(("generator_optimizer", "discriminator_optimizer"), piece(own.get(rule, rule)))
    return {"model": {"class_path": "GAN", "init_args": optimizers}, "config": piece(f"{dataset}_{family}")}


def jare_pieces(stem):
    """cifar10_NETWORK_METHOD."""
    experiment, _, method = stem.rpartition("_")
    regularized = method in ("conopt", "jare")
    arguments = {"method": piece(method) if regularized else {"class_path": "SimGD"}}
    model = {"class_path": "SimultaneousGAN", "init_args": arguments}
    more = {"preconditioning": piece("sn")} if method == "sn" else {}
    return {"model": model, "config": piece(f"jare_{experiment}"), **more}


@pytest.mark.parametrize("pieces_of", [pcgan_pieces, nsgda_pieces, jare_pieces], ids=lambda f: f.__name__)
def test_experiments_are_the_pieces_of_their_names(pieces_of):
    """And nothing else, beside the folder and the length of the run, in at most seven lines."""
    paper = pieces_of.__name__.partition("_")[0]
    for path in {"pcgan": PCGAN, "nsgda": NSGDA, "jare": JARE}[paper]:
        config = config_of(path)
        config.pop("trainer", None)
        assert config == {"run_dir": f"runs/{paper}/{path.stem}", **pieces_of(path.stem)}, path
        assert len(path.read_text().splitlines()) <= 7, "what is longer is a piece for configs/shared"


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


@pytest.mark.parametrize("config", covering(PCGAN), ids=lambda p: p.stem)
def test_config_parses(config, resolve):
    """PC-GAN: networks, losses, Adam's betas and the methods."""
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
    experiment = FOLDER / "pcgan" / f"cifar10_resnet_{'5-1' if betas[0] else '1-1'}_sn.yaml"
    chosen = FOLDER / "shared" / f"{name}.yaml"
    parsed = fit_parser.parse_args(["--config", str(experiment), "--config", str(chosen)])
    model = yaml.safe_load(fit_parser.dump(parsed, skip_none=False))["model"]["init_args"]
    for player in ("generator", "discriminator"):
        assert model[f"{player}_optimizer"]["init_args"]["betas"] == betas
        assert model[f"{player}_scheduler"]["class_path"].endswith("LinearDecay")  # what it does not name stays


def test_the_authors_networks_are_one_line(fit_parser):
    experiment, variants = FOLDER / "pcgan" / "stl10_resnet_1-1_sn.yaml", FOLDER / "shared" / "resnet_authors.yaml"
    parsed = fit_parser.parse_args(["--config", str(experiment), "--config", str(variants)])
    model = yaml.safe_load(fit_parser.dump(parsed, skip_none=False))["model"]["init_args"]
    generator, discriminator = model["generator"]["init_args"], model["discriminator"]["init_args"]
    assert (generator["upsampling"], generator["image_kernel_size"], generator["image_size"]) == ("bilinear", 1, 48)
    found = discriminator["negative_slope"], discriminator["linear_bias"], discriminator["image_size"]
    assert found == (0.1, False, 48)


@pytest.mark.parametrize("config", covering(NSGDA), ids=lambda p: p.stem)
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


@pytest.mark.parametrize("config", covering(JARE), ids=lambda p: p.stem)
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


def parquet_like(resolved, folder):
    """A local stand-in for a config's hub dataset: real files of the right size, kind and column."""
    size = resolved["data"]["init_args"]["image_size"]
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(6)]
    table = datasets.Dataset.from_dict({"image": images}, features=datasets.Features(image=datasets.Image()))
    path = folder / f"{size}.parquet"
    table.to_parquet(path)
    return path


@pytest.mark.parametrize("config", SPECTRA, ids=lambda p: p.stem)
def test_convolution_spectra_config_parses(config, resolve):
    """Spectral normalisation by the norm that the name tells, both views logged."""
    resolved = resolve(config)
    norm = config.stem.removeprefix("cifar10_resnet_")
    preconditioning = resolved["preconditioning"]["init_args"]
    assert (preconditioning["degree"], preconditioning["norm"]) == (1, norm.removesuffix("_held"))
    assert preconditioning["hold_norm"] == norm.endswith("_held")
    assert (resolved["spectrum"]["view"], resolved["spectrum"]["input_shape"]) == ("operator", [3, 32, 32])
    assert resolved["run_dir"] == f"runs/convolution_spectra/{config.stem}"


@pytest.mark.slow
@pytest.mark.parametrize("config", covering(PCGAN + NSGDA + JARE + SPECTRA), ids=lambda p: p.stem)
def test_config_runs(config, resolve, monkeypatch, tmp_path):
    """One iteration with every piece of an experiment, at tiny width, on local images; nothing is written."""
    source = parquet_like(resolve(config), tmp_path)
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
    config = FOLDER / "pcgan" / "cifar10_cnn_1-1_apc.yaml"
    source = parquet_like(resolve(config), tmp_path)
    common = ("--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.max_steps=1")
    data = ("--data.source", source, "--data.validation_split=null", "--data.batch_size=4")
    width = ("--model.generator.width=1", "--model.discriminator.width=1")
    first = tmp_path / "first"
    assert pcgan(monkeypatch, "fit", "--config", config, *common, *data, *width, "--run_dir", first) == 0
    assert [p.name for p in first.glob("*.yaml")] in (["config.yaml", "hparams.yaml"], ["hparams.yaml", "config.yaml"])
    (tmp_path / "alone").mkdir()
    alone = (first / "config.yaml").rename(tmp_path / "alone" / "config.yaml")
    assert resolve(alone) == config_of(alone)
    assert config_of(alone)["model"]["init_args"]["generator"]["init_args"]["width"] == 1
