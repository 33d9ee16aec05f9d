"""Which folder a run may take."""

import pytest

from pcgan_lightning.runs import check_unused, claimed


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "metrics.csv", "environment.json", "checkpoints/a.ckpt", "samples/a.png", "hpc_ckpt_1.ckpt"],
)
def test_a_run_is_never_overwritten(name, tmp_path):
    """Not one without a configuration either."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=r"`run_dir` must not hold a run yet, got .* --ckpt_path last$"):
        check_unused(tmp_path)


@pytest.mark.parametrize(("names", "said"), [(["a"], "'a';"), (["b.txt", ".a", "c"], "'.a' and 2 more;")])
def test_files_of_others_are_not_overwritten(names, said, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match="`run_dir` must be a folder without anything else in it") as error:
        check_unused(tmp_path)
    assert f"which holds {said} choose another folder" in str(error.value)


def test_the_lock_of_a_run_that_never_began_is_nothing(tmp_path):
    check_unused(tmp_path / "nowhere")
    with claimed(tmp_path):
        (tmp_path / "run.owner.part").touch()
        check_unused(tmp_path)
    check_unused(tmp_path)
