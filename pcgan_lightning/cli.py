"""The command `pcgan`: train, evaluate and sample from configuration files."""

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from typing import Any, Optional

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info

# Imported for their names: a config may say `class_path: GAN` without the package's path.
from pcgan_lightning import callbacks, data, games, losses, metrics, modules, networks, optim  # noqa: F401
from pcgan_lightning.callbacks import (
    CollapseMonitor,
    GANProgressBar,
    NonFiniteGuard,
    Preconditioning,
    RunCheckpoint,
    SampleGridLogger,
    ScoreLogger,
    SpectrumLogger,
    StopOnSignal,
)
from pcgan_lightning.checkpoints import read_checkpoint
from pcgan_lightning.evaluate import evaluate
from pcgan_lightning.generate import generate
from pcgan_lightning.report import report
from pcgan_lightning.run_logger import RunCSVLogger
from pcgan_lightning.runs import (
    CONFIG_FILE,
    RunRecord,
    check_unused,
    check_writable,
    last_checkpoint,
    unused_path,
)
from pcgan_lightning.trust import check_classes, check_config_file, check_hyper_parameters, distrust_configs

FUNCTIONS = {"evaluate": evaluate, "generate": generate}
COMMANDS = (*LightningCLI.subcommands(), *FUNCTIONS, "report", "classifier")
# Of all others, which may be mistakes of ours, the line tells the type and how to see more.
EXPECTED_ERRORS = (ArgumentError, ValueError, OSError, ModuleNotFoundError, MisconfigurationException)
# Some parsers repeat whole configurations.
LONGEST_LINE = 1500

LOGGER_PACKAGES = {
    "CometLogger": ("comet_ml",),
    "MLFlowLogger": ("mlflow",),
    "NeptuneLogger": ("neptune",),
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "WandbLogger": ("wandb",),
}
WANDB_ID_FILE = "wandb_id.txt"
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-4, "betas": [0.0, 0.9]}}
DEFAULTS = {
    "model": {
        "class_path": "GAN",
        "init_args": {
            "loss": {"class_path": "HingeLoss"},
            "generator_optimizer": ADAM,
            "discriminator_optimizer": ADAM,
        },
    },
    "data": {"class_path": "ImageDataModule"},
    "checkpoint.every_n_train_steps": 1000,
    "checkpoint.filename": "iteration_{step:07d}",
    "checkpoint.auto_insert_metric_name": False,
    # A resumed run comes to the same names again, with the same content.
    "checkpoint.enable_version_counter": False,
}


class PCGANCLI(LightningCLI):
    """LightningCLI with a run folder and the package's callbacks as top-level keys.

    ``run_dir`` is where a fit leaves everything: the resolved ``config.yaml``, ``metrics.csv``, ``checkpoints/``,
    ``samples/``, ``spectra/``. A folder that holds a run is refused, unless that run is continued with
    ``--ckpt_path last`` or a checkpoint of the folder. ``last`` is the latest checkpoint that is whole; a fit without
    any starts from the beginning.
    """

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's; of those only the one that is called, since each parser takes its time to be built."""
        known, called = LightningCLI.subcommands(), "".join(sys.argv[1:2])
        return {called: known[called]} if called in known else known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``run_dir`` and the callbacks that every run has, the guard before those that measure."""
        parser.add_argument("--run_dir", type=str, default="runs/pcgan", help="Folder of everything a fit writes.")
        parser.add_lightning_class_args(NonFiniteGuard, "guard")
        parser.add_lightning_class_args(CollapseMonitor, "collapse")
        parser.add_subclass_arguments(Preconditioning, "preconditioning", required=False, fail_untyped=False)
        parser.callback_keys.append("preconditioning")
        parser.add_subclass_arguments(ScoreLogger, "scores", required=False)
        parser.callback_keys.append("scores")
        parser.add_lightning_class_args(SpectrumLogger, "spectrum")
        parser.add_lightning_class_args(SampleGridLogger, "samples")
        parser.add_lightning_class_args(GANProgressBar, "progress")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.set_defaults(DEFAULTS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse a damaged checkpoint and functions in the place of classes before anything is built."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        check_classes(config)
        _check_numbers(config)
        if config.get("ckpt_path") not in (None, "", "last"):
            _check_checkpoint(Path(config.ckpt_path), self.config.subcommand)

    def _parse_ckpt_path(self) -> None:
        # Lightning lets a checkpoint's hyperparameters replace the configuration. A fit is what was asked for, and the
        # module refuses a checkpoint that does not fit; an evaluation needs no configuration beside its checkpoint.
        if self.config.subcommand != "fit":
            super()._parse_ckpt_path()

    def before_instantiate_classes(self) -> None:
        """Settle the run folder, and refuse one that is taken, before anything is built."""
        config = self.config[self.subcommand]
        # The saved configuration is what was asked for, so that it serves for another run folder as well.
        self.save_config_kwargs = {"requested": config.clone()}
        folder, checkpoint = Path(config.run_dir), config.get("ckpt_path")
        fit = self.subcommand == "fit"
        if fit and not config.trainer.fast_dev_run:
            check_writable(folder)
        continues = checkpoint == "last"
        if continues:
            elsewhere = config.checkpoint.dirpath
            checkpoint = last_checkpoint(folder, None if elsewhere is None else Path(elsewhere))
            if checkpoint is None:
                if not fit:
                    raise FileNotFoundError(f"argument `ckpt_path` 'last' needs a checkpoint in {folder}, found none")
                rank_zero_info(f"{folder} holds no checkpoint yet: the run starts from the beginning")
            else:
                _check_checkpoint(checkpoint, self.subcommand)
            config.ckpt_path = None if checkpoint is None else str(checkpoint)
        elif checkpoint:
            continues = folder.resolve() in Path(checkpoint).resolve().parents
        if fit:
            if not continues:
                check_unused(folder)
            config.trainer.default_root_dir = str(folder)
            _send_logs_to(folder, config.trainer, Path(checkpoint) if continues and checkpoint else None)
        elif config.trainer.logger is None:
            config.trainer.logger = False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the callbacks of this subcommand."""
        configured = {key: self._get(self.config_init, key) for key in self._parser(self.subcommand).callback_keys}
        if self.subcommand != "fit":
            configured = {"preconditioning": configured["preconditioning"]}
        trainer_config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        if trainer_config.get("enable_progress_bar") is False or trainer_config.get("barebones"):
            configured.pop("progress", None)
        if trainer_config.get("enable_checkpointing") is False:
            configured.pop("checkpoint", None)
        chosen = [c for c in configured.values() if c is not None]
        if self.subcommand == "fit":
            chosen += [RunRecord(), StopOnSignal()]
        return self._instantiate_trainer(trainer_config, chosen)

    def after_fit(self) -> None:
        """Save the final state, whatever the interval of checkpoints."""
        if not self.trainer.fast_dev_run and self.trainer.checkpoint_callback is not None:
            path = Path(self.trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            self.trainer.save_checkpoint(path, weights_only=False)


class SaveRunConfig(SaveConfigCallback):
    """Save the resolved configuration in the run folder and hand it to the loggers; a continued run keeps both.

    Args:
        parser: the parser of the subcommand.
        config: the configuration with all loggers and folders in place; not saved.
        requested: the configuration as it was asked for.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, requested: Namespace) -> None:
        super().__init__(parser, requested)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save nothing yet: what fails before training must not claim the folder."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, all in one file whatever pieces it was composed from."""
        if trainer.is_global_zero and not trainer.fast_dev_run:
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, unused_path(folder / CONFIG_FILE), skip_none=False, multifile=False)
            self.save_config(trainer, pl_module, "fit")
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    (folder / WANDB_ID_FILE).write_text(f"{logger.version}\n")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the configuration to the loggers as hyperparameters."""
        for logger in trainer.loggers:
            if not isinstance(logger, RunCSVLogger):  # the folder has it already
                logger.log_hyperparams({"config": self.parser.dump(self.config, skip_none=False)})


class ClassifierCLI(LightningCLI):
    """LightningCLI that builds classes only."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse functions in the place of classes."""
        super().parse_arguments(parser, args)
        check_classes(self.config[self.config.subcommand])


def _check_numbers(config: Namespace) -> None:
    """Refuse what Lightning takes without a word, or refuses without its name."""
    if config.trainer.max_steps == 0 or config.trainer.max_steps < -1:
        raise ValueError(f"argument `max_steps` must be positive, or -1 for no limit, got {config.trainer.max_steps}")
    seed = config.seed_everything
    if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"argument `seed_everything` must be in 0..{2**32 - 1}, got {seed}")


def _check_checkpoint(path: Path, subcommand: str = "fit") -> None:
    """Refuse a file that is no whole checkpoint of a game of this package, or that holds too little to go on from."""
    if not path.is_file():
        raise FileNotFoundError(f"argument `ckpt_path` must be a checkpoint file or 'last', got {path}")
    content = read_checkpoint(path)
    needed = ("pytorch-lightning_version", "global_step")
    needed += ("loops", "optimizer_states", "lr_schedulers") if subcommand == "fit" else ()
    rule = f"argument `ckpt_path` must be a checkpoint of this package, got {path}"
    for name in needed:
        if name not in content:
            raise ValueError(f"{rule}: it lacks {name!r}")
    check_hyper_parameters(content, modules.TwoPlayerModule, rule)


def _send_logs_to(folder: Path, trainer: Namespace, checkpoint: Optional[Path]) -> None:
    """Give a fit `metrics.csv`, and the configured loggers without a folder of their own the run folder.

    There they go on with the run that `checkpoint` continues: TensorBoard in the same folder, where the steps after the
    checkpoint are hidden, and W&B in the same run, which can't drop them: its rows between the checkpoint and the
    interruption appear twice, with the same values at the same ``trainer/global_step``.
    """
    if trainer.logger is False or trainer.fast_dev_run:
        return
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    loggers = [logger for logger in loggers if logger not in (None, True)]
    for logger in loggers:
        kind, arguments = logger.class_path.rpartition(".")[2], logger.init_args
        _check_package(kind)
        if arguments.get("save_dir") not in (None, "."):
            continue
        arguments["save_dir"] = str(folder)
        if kind == "TensorBoardLogger" and arguments.get("version") is None:
            step = -1 if checkpoint is None else read_checkpoint(checkpoint)["global_step"]
            arguments["version"] = 0
            logger["dict_kwargs"] = {"purge_step": step + 1} | dict(logger.get("dict_kwargs") or {})
        continued_run = folder / WANDB_ID_FILE
        if kind == "WandbLogger" and checkpoint is not None and continued_run.exists():
            arguments["id"] = arguments.get("id") or continued_run.read_text().strip()  # `version` goes before both
    own = Namespace(
        class_path=f"{RunCSVLogger.__module__}.{RunCSVLogger.__qualname__}",
        init_args=Namespace(save_dir=str(folder)),
    )
    trainer.logger = [own, *loggers]


def _check_package(logger: str) -> None:
    """Say what to install for a logger of Lightning's; the parser would only say that it is no valid logger."""
    packages = LOGGER_PACKAGES.get(logger, ())
    if packages and not any(importlib.util.find_spec(package) for package in packages):
        raise ModuleNotFoundError(
            f"argument `trainer.logger` {logger} needs the package {packages[0]}, which is not installed: "
            f"pip install {packages[0]}"
        )


def main(arguments: Optional[list[str]] = None) -> None:
    """Run the command; expected mistakes end in one line and a non-zero status, ``--debug`` shows the traceback."""
    if arguments is not None:
        sys.argv[1:] = arguments
    debug = "--debug" in sys.argv
    sys.argv[1:] = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        command = sys.argv[1] if len(sys.argv) > 1 else ""
        if not command.startswith("-") and command not in COMMANDS:
            raise ValueError(f"argument `command` must be one of {', '.join(COMMANDS)}, got {command or 'none'}")
        distrust_configs()
        for path in _config_files(sys.argv[2:]):
            check_config_file(path)
        if command in FUNCTIONS:
            parser = ArgumentParser(prog=f"pcgan {command}", exit_on_error=False)
            parser.add_argument("--config", action=ActionConfigFile, help="YAML file of arguments")
            parser.add_function_arguments(FUNCTIONS[command], as_positional=True, sub_configs=True)
            config = parser.parse_args(sys.argv[2:])
            check_classes(config)
            arguments = parser.instantiate_classes(config).as_dict()
            FUNCTIONS[command](**{name: value for name, value in arguments.items() if name != "config"})
        elif command == "report":
            parser = ArgumentParser(prog="pcgan report", exit_on_error=False)
            parser.add_argument("runs", nargs="+", type=Path, help="run folders of `pcgan fit`")
            parser.add_function_arguments(report, skip={"runs"})
            report(**parser.parse_args(sys.argv[2:]).as_dict())
        elif command == "classifier":
            sys.argv[:2] = ["pcgan classifier"]
            ClassifierCLI(
                modules.Classifier,
                data.LabelledImageDataModule,
                auto_configure_optimizers=False,
                save_config_callback=None,
                parser_kwargs=_parser_kwargs(
                    ClassifierCLI, "pcgan classifier", "Train a classifier whose features score images."
                ),
            )
        else:
            PCGANCLI(
                modules.TwoPlayerModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                save_config_callback=SaveRunConfig,
                parser_kwargs=_parser_kwargs(
                    PCGANCLI,
                    "pcgan",
                    "Train GANs. Further commands: pcgan generate, evaluate, report, classifier; each has --help.",
                ),
            )
    except Exception as error:
        if debug:
            raise
        if isinstance(error, EXPECTED_ERRORS) and str(error):
            sys.exit(_report(str(error)))
        sys.exit(_report(f"{type(error).__name__}: {error}", hint=" (--debug shows where)"))


def _config_files(arguments: list[str]) -> list[Path]:
    """Return the files of all ``--config FILE`` and ``--config=FILE``."""
    pairs = [a.split("=", 1) for a in arguments if a.startswith("--config=")]
    pairs += [list(pair) for pair in itertools.pairwise(arguments) if pair[0] == "--config"]
    return [Path(path) for _, path in pairs if not path.lstrip().startswith("{")]


def _parser_kwargs(cli: type[LightningCLI], program: str, description: str) -> dict[str, Any]:
    """Return what makes parsers raise instead of printing a page of usage."""
    subcommands = {name: {"exit_on_error": False} for name in cli.subcommands()}
    return {"prog": program, "description": description, "exit_on_error": False, **subcommands}


def _report(message: str, hint: str = "") -> int:
    """Print an error as one line and return the exit status."""
    # jsonargparse tells of every type that it tried, and repeats whole configurations.
    noise = r"Does not validate|Subtypes:|Errors:$|Expected a <class 'NoneType'>|Given value type:|Given value: N"
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    said = "; ".join(line for line in lines if line and not re.match(noise, line)).replace(":;", ":")
    said = said if len(said) <= LONGEST_LINE else f"{said[:LONGEST_LINE]} ..."
    print(f"pcgan: error: {said}{hint}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
