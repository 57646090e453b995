"""Other seeds and values than a study's file lists."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import write_study

from experiments.choice import Choice, enlarged, with_seeds, with_values
from experiments.study import BUNDLED, bundled_names, find, parse, parse_seeds, read
from sngan.config import InputError


@pytest.mark.parametrize(
    ("text", "seeds"), [("0..3", [0, 1, 2, 3]), ("7", [7]), ("5, 0..2,9", [5, 0, 1, 2, 9]), ("4294967295", [2**32 - 1])]
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text, "--seeds") == seeds


@pytest.mark.parametrize(
    "text",
    ["", "3..1", "-1", "0-3", "0...3", "0..", "..3", "a", "1;2", "1,,2", "0.5", "²", "4294967296", "0..99999999"],
)
def test_what_is_no_list_of_seeds_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"--seeds .*: expected a range such as 0\.\.19"):
        parse_seeds(text, "--seeds")


def test_a_seed_named_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="a seed is named twice"):
        parse_seeds("0..3,2", "--seeds")


@pytest.mark.parametrize("name", bundled_names())
def test_seeds_replace_those_of_the_file_and_the_file_stays_whole(name: str) -> None:
    whole = find(name)
    study = with_seeds(whole, [100, 3])
    assert {config.seed for config in study.configs} == {3, 100}
    assert study.cells * len({c.seed for c in whole.configs}) == whole.cells * 2
    assert (study.name, study.text, study.primary) == (
        whole.name,
        (BUNDLED / f"{name}.yaml").read_text(),
        whole.primary,
    )
    of_seed_3 = {config.run_id for config in whole.configs if config.seed == 3}
    assert of_seed_3 <= {config.run_id for config in study.configs}
    assert study.not_chosen == {config.run_id for config in whole.configs} - of_seed_3


def test_a_file_without_seeds_can_be_given_some(tmp_path: Path) -> None:
    path = write_study(tmp_path, arm=["dcgan", "sn"])
    study = with_seeds(read(path), [0, 1])
    assert [(config.seed, config.arm) for config in study.configs] == [
        (0, "dcgan"), (0, "sn"), (1, "dcgan"), (1, "sn")
    ]  # fmt: skip


def test_a_larger_plan_is_the_files_with_the_seeds_that_it_lacks(tmp_path: Path) -> None:
    study = read(write_study(tmp_path, seed=[0, 1], arm=["dcgan", "sn"]))
    assert enlarged(with_seeds(study, [1])).text == study.text
    larger = parse(enlarged(with_seeds(study, [5, 1])).text)
    assert {(c.seed, c.arm) for c in larger.configs} == {(s, a) for s in (0, 1, 5) for a in ("dcgan", "sn")}
    assert len(enlarged(with_seeds(study, [5, 1])).configs) == 4


def test_values_make_a_study_of_their_own() -> None:
    whole = find("mnist-short")
    study = with_values(whole, ["steps=100", "lr=0.005, 1e-2"])
    assert study.name == "mnist-short-lr-0.005-0.01-steps-100"
    assert study.name == with_values(whole, ["steps=100", "lr=5e-3,0.01"]).name
    assert {(config.steps, config.lr) for config in study.configs} == {(100, 0.005), (100, 0.01)}
    assert len(study.configs) == len(whole.configs) / 2
    content = yaml.safe_load(study.text)
    assert content["command"][content["command"].index("--study") + 1] == study.name
    assert study.description.startswith(whole.description)
    assert "Of mnist-short, with lr 0.005 and 0.01, steps 100." in study.description
    assert whole.primary == {"failures": {"lr": 0.03}, "spread": {"lr": 0.005}, "C14": {"lr": 0.01}}
    assert study.primary == {"spread": {"lr": 0.005}, "C14": {"lr": 0.01}}
    assert parse(study.text).configs == study.configs
    assert with_values(whole, ["precision=bfloat16"]).configs[0].precision == "bfloat16"  # not in the file
    assert with_values(whole, ["arm=sn,plain"]).configs[0].arm == "sn"


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    names = {with_values(find("mnist-smoke"), [f"lr=0.00{i}", "steps=100", "n_fake=1000", "log_every=50"]).name
             for i in range(1, 9)}  # fmt: skip
    assert len(names) == 8
    assert {len(name) for name in names} <= set(range(65))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr", "expected NAME=VALUE"),
        ("lr=", "expected NAME=VALUE"),
        ("=1", "expected NAME=VALUE"),
        ("lr=2026-13-45", "neither a number nor a word"),
        ("lr=0x_", "neither a number nor a word"),
        (f"lr={'9' * 5000}", "neither a number nor a word"),
        ("lr=0.1,steps=40", "repeat --set for steps=40"),
        ("learning_rate=1", "not a parameter"),
        ("step=1", r"step: not a parameter; did you mean 'steps'\?"),
        ("seed=1", "give --seeds"),
        ("device=cuda", "is an option of sweep: --device"),
        ("lr=fast", "lr: "),
        ("lr=0.01,0.01", "listed twice"),
        ("lr=-1", "lr"),
        ("arm=gan", "arm: 'gan' is not one of"),
        ("lr=[1", "neither a number nor a word"),
        ("steps=true", "not a number or a word"),
    ],
)
def test_wrong_values_are_named(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_values(find("mnist-smoke"), [setting])


def test_equal_values_are_one_study() -> None:
    names = [with_values(find("mnist-smoke"), settings).name
             for settings in (["lr=1", "arm=sn,dcgan"], ["arm=dcgan,sn", "lr=1.0"])]  # fmt: skip
    assert names == ["mnist-smoke-arm-dcgan-sn-lr-1.0"] * 2


def test_a_parameter_that_no_arm_has_is_an_error() -> None:
    with pytest.raises(
        InputError, match=r"no arm of mnist-smoke has it \(it belongs to penalty_dcgan, penalty, gp, r1, ortho\)"
    ):
        with_values(find("mnist-smoke"), ["arm=dcgan,sn", "penalty_weight=0.1"])


def test_a_flag_that_changes_nothing_in_a_study_is_an_error() -> None:
    with pytest.raises(
        InputError, match=r"no arm of mnist-smoke has it \(it belongs to gp with batch norm, r1 with ba"
    ):
        with_values(find("mnist-smoke"), ["void_combination=allow"])
    changed = with_values(find("constraints"), ["arm=gp", "d_norm=batch", "void_combination=allow"])
    assert {config.norm for config in changed.configs} == {"batch"}


def test_seeds_may_be_given_in_several_words(command: Callable, tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2], arm=["dcgan", "sn"])
    assert "4 runs: 4 missing" in command("plan", path, "--seeds", "0", "--seeds", "2", "--runs-dir", tmp_path)[1]
    code, _, errors = command("plan", path, "--seeds", "", "--runs-dir", tmp_path)
    assert (code, "--seeds '': expected a range" in errors) == (2, True)
    code, output, _ = command("sweep", path, "--seeds", "0", "--shard", "7/8", "--runs-dir", tmp_path)
    assert (code, output) == (0, "tiny: no runs in part 7/8\n")


def test_a_parameter_given_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="lr is given twice"):
        with_values(find("mnist-smoke"), ["lr=0.1", "lr=0.2"])


def test_plan_says_where_it_is_recorded(command: Callable, tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2], arm=["dcgan", "sn"])
    code, output, _ = command("plan", path, "--set", "steps=10", "--seeds", "0..1", "--runs-dir", tmp_path)
    assert code == 0
    assert "4 cells, 4 runs: 4 missing" in output
    assert f"recorded under: {tmp_path / 'tiny-steps-10'}" in output
    code, _, errors = command("plan", path, "--seeds", "1..0", "--runs-dir", tmp_path)
    assert (code, "--seeds '1..0': expected" in errors) == (2, True)


def test_single_runs_have_no_grid_to_choose_from(tmp_path: Path, mixed_study: Path) -> None:
    (mixed_study / "study.yaml").unlink()
    with pytest.raises(InputError, match="without a study file"):
        Choice(seeds="0").find("tiny", str(mixed_study.parent))


def test_a_grid_that_seeds_make_too_large_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"the grid has 300,000 cells; at most 100,000"):
        with_seeds(find("demo"), range(100_000))
