"""What a run says about itself, in YAML and JSON: written whole, and refused by name where it was cut."""

import json
from pathlib import Path
from typing import Any

from pcgan_lightning.runs.folder import CONFIG_FILE, ENVIRONMENT_FILE
from pcgan_lightning.runs.writing import write_whole
from pcgan_lightning.runs.yaml_files import load_yaml

# YAML's own marks of where a document begins and ends. A cut configuration may be YAML as well, but for the latter.
_BEGIN, _END = "---\n", "...\n"


def write_config(path: Path, text: str) -> None:
    """Write a configuration in YAML so that a cut one can be told from a whole one.

    Args:
        path: of the file; one that is there is replaced.
        text: a mapping in YAML, without marks.
    """
    write_whole(path, f"{_BEGIN}{text.rstrip()}\n{_END}")


def read_record(path: Path, rule: str) -> dict[str, Any]:
    """Return the mapping that a JSON or YAML file of a run folder holds.

    Args:
        path: the file.
        rule: the beginning of the message, such as ``argument `runs` must hold readable files``.

    Raises:
        ValueError: naming the file, if it is cut, damaged, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else load_yaml(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{rule}, got {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{rule}, got {path}, which is no mapping")
    if text.startswith(_BEGIN) and not text.rstrip().endswith(f"\n{_END.rstrip()}"):
        raise ValueError(f"{rule}, got {path}, whose end is missing")
    return content


def check_records(folder: Path, rule: str) -> None:
    """Refuse a run folder in which a configuration or an environment, of any part of the run, is cut or damaged.

    Args:
        folder: of the run, or any other, where there are none.
        rule: as in :func:`read_record`.

    Raises:
        ValueError: naming the file.
    """
    for name in (Path(CONFIG_FILE), Path(ENVIRONMENT_FILE)):
        for path in sorted(folder.glob(f"{name.stem}*{name.suffix}")):
            read_record(path, rule)
