"""Make docs/quickstart.png, the README's picture, from a finished quickstart.

python docs/quickstart_picture.py [RUN_FOLDER]
"""

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]


def main() -> None:
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "quickstart"
    samples = Image.open(max((run / "samples").iterdir()))  # names sort by iteration
    conditions = Image.open(run / "spectra" / "condition_numbers.png")
    width = round(samples.width * conditions.height / samples.height)
    samples = samples.resize((width, conditions.height), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (samples.width + 20 + conditions.width, conditions.height), "white")
    picture.paste(samples, (0, 0))
    picture.paste(conditions, (samples.width + 20, 0))
    picture.save(Path(__file__).with_name("quickstart.png"), optimize=True)


if __name__ == "__main__":
    main()
