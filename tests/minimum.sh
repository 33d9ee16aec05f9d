#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml names, in a fresh virtual environment, and runs the fast tests.
#
#   tests/minimum.sh [NEW_FOLDER]      the environment; a temporary one without
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-$(mktemp -d)/venv}"
if [ -e "$folder" ]; then
    echo "argument NEW_FOLDER must not exist yet, got $folder" >&2
    exit 1
fi
python3 -m venv "$folder"
source "$folder/bin/activate"

# pip brings what reads requirements, and TOML before Python 3.11.
python - > "$folder/lowest.txt" << 'EOF'
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:
    from pip._vendor import tomli as tomllib

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
    requirement = Requirement(text)
    (lowest,) = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    print(f"{requirement.name}=={lowest}")
EOF
# `datasets` would take the newest pyarrow, which does not work with the lowest NumPy and does not say so.
echo "pyarrow==15.0.0" >> "$folder/lowest.txt"
pip install --quiet --constraint "$folder/lowest.txt" ".[test]"
pip check
OMP_NUM_THREADS=1 pytest -n 2 --dist worksteal
