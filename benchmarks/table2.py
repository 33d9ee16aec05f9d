"""Table 2 of PC-GAN: all methods of preconditioning on LSUN, beside the published numbers.

    python benchmarks/table2.py --dataset lsun_bedroom_128                       # the paper's size, on an accelerator
    python benchmarks/table2.py --dataset lsun_tower_256 --source FOLDER --features inception

CNNs, log loss, (1, 1) updates, as `configs/pcgan/lsun_*` have them; all else as benchmarks/table1.py does it. Living
room and tower come from folders of images, exported from the LSUN database; the published FID is with Inception
features. Nothing of this has been run on LSUN by us.
"""

import argparse

from method_runs import add_arguments, make_table

DATASETS = ("lsun_bedroom_128", "lsun_bedroom_256", "lsun_living_room_256", "lsun_tower_256")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=DATASETS, default=DATASETS[0])
    add_arguments(parser)
    arguments = parser.parse_args()
    arguments.updates = "1-1"
    arguments.betas = [tuple(pair) for pair in arguments.betas or [(0.5, 0.999)]]
    make_table(arguments, f"table2_{arguments.dataset}", arguments.dataset)


if __name__ == "__main__":
    main()
