import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import write_study
from test_data import write_cifar, write_idx

from experiments.record import Record, read_rows
from experiments.run import execute
from experiments.study import BUNDLED, bundled_names, find, for_wandb, is_for_wandb, parse, read, scalar, template
from sngan.arms import ARMS
from sngan.config import InputError

HEAD = "name: x\nmethod: grid\n"
GRID = HEAD + "parameters: {arm: {values: [dcgan, sn]}, lr: {values: [0.01, 0.02]}}\n"


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("demo", 9),
        ("mnist-smoke", 12),
        ("mnist-core", 60),
        ("stacked-mnist", 80),
        ("mnist-bf16", 28),
        ("fashion-core", 60),
        ("cifar10-paper", 540),
    ],
)
def test_bundled_studies(name: str, runs: int) -> None:
    study = find(name)
    assert (study.name, len(study.configs)) == (name, runs)
    assert len({config.run_id for config in study.configs}) == runs


@pytest.mark.parametrize("name", bundled_names())
def test_a_study_file_is_a_wandb_sweep_file(name: str) -> None:
    """Every key is W&B's, values are scalars, and the command names the study that the file describes."""
    content = yaml.safe_load((BUNDLED / f"{name}.yaml").read_text())
    assert set(content) <= {"name", "description", "program", "command", "method", "metric", "controller", "parameters"}
    if "controller" in content:  # the only place where W&B's schema of a sweep file lets other keys be
        assert content["controller"]["type"] == "cloud"
        assert set(content["controller"]["primary"]) >= {"failures", "spread"}
    assert content["command"][2:] == ["-m", "experiments", "train", "--study", name, "${args}"]
    for spec in content["parameters"].values():
        assert all(isinstance(v, str | int | float) for v in spec.get("values", [spec.get("value")]))
    assert Path(content["program"]) == Path("experiments/__main__.py")


@pytest.mark.parametrize("where", ["primary: {}", "controller: {{type: cloud, primary: {}}}"])
def test_the_contexts_of_primary_outcomes_are_named_in_the_file(where: str) -> None:
    primary = {"failures": {"lr": 0.02}, "spread": {"lr": 0.01, "setting": "custom"}, "C14": {"lr": 0.01}}
    assert parse(GRID + where.format(json.dumps(primary))).primary == primary
    assert parse(GRID).primary == {}
    assert find("mnist-short").primary == {"failures": {"lr": 0.03}, "spread": {"lr": 0.005}, "C14": {"lr": 0.01}}


def test_cells_that_become_equal_are_one_run() -> None:
    study = parse(HEAD + "parameters: {arm: {values: [dcgan, penalty]}, penalty_weight: {values: [0.01, 0.1]}}")
    assert (study.cells, len(study.configs)) == (4, 3)


def test_a_number_in_exponent_form_is_a_number() -> None:
    assert parse(HEAD + "parameters: {lr: {value: 1e-3}}").configs[0].lr == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "parameters: {armm: {value: dcgan}}", "unknown parameter 'armm'; did you mean 'arm'"),
        (HEAD + "parameters: {arm: {value: dcgn}}", "did you mean 'dcgan'"),
        (HEAD + "parameters: {steps: {value: many}}", "expected int"),
        (HEAD + "parameters: {steps: {value: 1.5}}", "expected int"),
        (HEAD + "parameters: {seed: {values: []}}", "grid is empty"),
        (HEAD + "parameters: {}", "grid is empty"),
        (HEAD + "parameters: {seed: {values: [1, 1]}}", "listed twice"),
        (HEAD + "parameters: {seed: {vaule: 3}}", "seed: expected a value, a list, {value: ..}"),
        (HEAD + "parameters: {seed: 0...3}", "seed '0...3': expected a range such as 0..19"),
        (HEAD + "parameters: {seed: {value: 3..0}}", "seed '3..0': expected a range such as 0..19"),
        (HEAD + "parameters: {steps: 1..3}", "steps: '1..3': only seeds can be a range; list the values"),
        (HEAD + "parameters: {lr: {values: {a: 1}}}", "lr: values must be a list, got {'a': 1}"),
        (HEAD + "seed: 1\nparameters: {lr: 0.1}", "unknown key 'seed'; put it under parameters"),
        (HEAD + "parameters: {arm: {values: dcgan}}", "arm: values must be a list, got 'dcgan'"),
        ("", "got nothing"),
        ("name: 2026\nparameters: {seed: 0}", "study name 2026 is not text to YAML: write it in quotes"),
        ("name: a.yml\nparameters: {seed: 0}", "not end in .yaml or .yml"),
        (HEAD + "parameters: {seed: [0..3, 1.5]}", "seed '0..3,1.5': expected a range such as 0..19"),
        (HEAD + "parameters: {seed: [0..3, 2]}", "seed '0..3,2': a seed is named twice"),
        ("parameters: {seed: 0}", "name is missing"),
        (HEAD + "parameters: {arm: [dcgan, [sn]]}", "['sn'] is not a number or a word"),
        (HEAD + "parameters: {arm:}", "None is not a number or a word"),
        (HEAD + "parameters: {seed: {value: 1}, seed: {value: 2}}", "given twice"),
        (HEAD + "parameters: {device: {value: cpu}}", "does not belong in a study"),
        (HEAD + "parameters: {seed: {values: [true]}}", "not a number or a word"),
        ("name: x\nmethod: random\nparameters: {seed: {value: 1}}", "method: expected grid"),
        ("name: ../x\nmethod: grid\nparameters: {seed: {value: 1}}", "not usable"),
        (HEAD + "paramters: {seed: {value: 1}}", "did you mean 'parameters'"),
        (HEAD + "command: [train, --study, y]\nparameters: {seed: {value: 1}}", "followed by the study's name"),
        (HEAD + "command: sngan\nparameters: {seed: {value: 1}}", "command: expected a list of words"),
        (HEAD + "parameters: {seed: {value: " + "1" * 5000 + "}}", "not valid YAML"),
        ("- 1", "expected a mapping"),
        (GRID + "primary: {failure: {lr: 0.01}}", "unknown outcome 'failure'; did you mean 'failures'"),
        (GRID + "primary: {failures: {lrr: 0.01}}", "'lrr' makes no context; did you mean 'lr'"),
        (GRID + "primary: {failures: {arm: sn}}", "'arm' makes no context"),
        (GRID + "primary: {failures: {lr: '0.01'}}", "lr '0.01' is 0 contexts"),
        (GRID + "primary: []", "primary: expected a mapping"),
        (GRID + "primary: {failures: {lr: 0.05}}", "lr 0.05 is 0 contexts of the grid"),
        (GRID + "primary: {failures: {dataset: digits}}", "dataset 'digits' is 2 contexts of the grid"),
        (GRID + "primary: {failures: 0.01}", "expected a mapping of fields"),
        (GRID + "primary: [failures]", "primary: expected a mapping"),
        (GRID + "controller: {type: cloud, primry: {}}", "controller: expected"),
        (GRID + "primary: {spread: {lr: 0.01}}\ncontroller: {primary: {spread: {lr: 0.01}}}", "given twice"),
        ("a: [", "not valid YAML"),
    ],
)
def test_mistakes_are_named_with_their_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml") as caught:
        read(path)
    assert message in str(caught.value)


def of(parameters: str, top: str = "") -> str:
    return f"name: a\nmethod: grid\n{top}parameters:\n{parameters}"


def test_merge_keys_are_yaml() -> None:
    study = parse(of("  <<: {steps: {value: 30}, lr: &lr {value: 0.5}}\n  lr: {<<: *lr, value: 0.25}\n"))
    assert [(config.steps, config.lr) for config in study.configs] == [(30, 0.25)]


@pytest.mark.parametrize("number", ["010", "+010", "00", "1:30", "1:30.5", "0x10", "0b1", "1_000", '!!int "0x10"'])
def test_a_number_with_two_readings_is_refused(number: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for text in (of(f"  lr: {{value: {number}}}\n"), of("  seed: {value: 1}", f"description: {number}\n")):
        path.write_text(text)
        with pytest.raises(InputError, match="is not the same number to every reader of YAML"):
            read(path)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("-0.5", -0.5), ("1.", 1.0), ("1e-3", 0.001), ("1.5E+3", 1500.0), ("07.5", 7.5),
     (".inf", math.inf)],
)  # fmt: skip
def test_other_numbers_are_as_they_are_written(text: str, number: float) -> None:
    assert repr(scalar(text)) == repr(number)


_TENFOLD = "\n".join(f"  p{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))
_MERGED = "\n".join(f"  p{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}], k{i}: 1}}" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (of(f"  p0: &a0 [1]\n{_TENFOLD}"), "anchors expand to more than 300,000 characters"),
        (of(f"  p0: &a0 {{k0: 1}}\n{_MERGED}"), "anchors expand to more than"),
        (of("  seed: {values: &v [1, *v]}"), "anchors expand to more than"),
        (of("  <<: &p {seed: *p}"), "anchors expand to more than"),
        (of(f"  lr: {{value: {'x' * 300_000}}}"), "more than 300,000 characters, which is no study file"),
        (of(f"  lr: {{value: {'x' * 200_000}}}"), r"got 'x{199}\.\. \(str\)$"),
        (
            of("".join(f"  {name}: {{values: {list(range(40))}}}\n" for name in ("seed", "lr", "steps", "z_dim"))),
            "the grid has 2,560,000 cells; at most 100,000 are possible",
        ),
        (of("  ? [1, 2]\n  : {value: 1}"), "unhashable key"),
        (of("  seed: {value: 1}", "description: [1, 2]\n"), r"description: expected text, got \[1, 2\]"),
        (of("  seed: {value: 1}", "description: 2026-11-28\n"), "description: expected text, got datetime"),
        (of("  " + "{a: " * 10_000), "nested more than 50 levels deep"),
    ],
)
def test_what_would_take_all_memory_or_time_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read(path)


def test_where_a_study_is_looked_for(tmp_path: Path) -> None:
    path = write_study(tmp_path, "mine", seed=[0, 1])
    assert len(find(str(path)).configs) == 2
    with pytest.raises(InputError, match="did you mean 'demo'"):
        find("dmo", str(tmp_path))
    (tmp_path / "mine").mkdir()
    path.rename(tmp_path / "mine" / "study.yaml")
    assert find("mine", str(tmp_path)).name == "mine"
    with pytest.raises(InputError, match="cannot read"):
        find(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("value", ["!!bool foo", "!!timestamp foo", "!!map foo", "!!int abc", "!!float abc"])
def test_a_value_that_its_tag_does_not_fit_is_named(value: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        parse(of(f"  lr: {{value: {value}}}\n"))
    with pytest.raises(InputError, match="not valid YAML"):
        scalar(value)


def test_a_key_given_twice_in_what_is_merged_is_an_error() -> None:
    for merged in ("{lr: {value: 0.1}, lr: {value: 0.2}}", "[{seed: {value: 1}}, {lr: {value: 1}, lr: {value: 2}}]"):
        with pytest.raises(InputError, match="key 'lr' is given twice"):
            parse(of(f"  <<: {merged}\n"))
    twice = parse(of("  seed: &a {<<: {value: 1}, value: 2}\n  n_dis: {<<: *a}\n"))  # merged, then merged again
    assert [(config.seed, config.n_dis) for config in twice.configs] == [(2, 2)]


def test_a_study_file_that_is_a_loop_of_links_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "study.yaml").symlink_to("study.yaml")
    with pytest.raises(InputError, match="cannot read the study file"):
        find("a", str(tmp_path))


def test_the_short_form_is_the_long_one() -> None:
    short = "name: a\nparameters: {seed: 0..2, arm: [dcgan, sn], lr: 0.001, dataset: {value: digits}}"
    grid = "seed: {values: [0, 1, 2]}, arm: {values: [dcgan, sn]}, lr: {value: 0.001}, dataset: {value: digits}"
    assert parse(short).configs == parse(f"name: a\nmethod: grid\nparameters: {{{grid}}}").configs
    for seeds in ("'3, 0..1'", "[3, 0..1]", "{value: '3, 0..1'}", "{values: [3, 0..1]}"):
        assert [c.seed for c in parse(f"name: a\nparameters: {{seed: {seeds}}}").configs] == [3, 0, 1]


def test_a_short_file_in_wandbs_form_is_the_same_study() -> None:
    short = parse("name: a\ndescription: Why?\nprimary: {failures: {lr: 0.1}}\nparameters: {seed: 0..1, lr: [0.1, 1]}")
    content = yaml.safe_load(for_wandb(short))
    assert set(content) == {"name", "description", "program", "command", "method", "metric", "controller", "parameters"}
    assert all(set(spec) <= {"value", "values"} for spec in content["parameters"].values())
    assert content["command"][2:] == ["-m", "experiments", "train", "--study", "a", "${args}"]
    again = parse(for_wandb(short))
    assert (again.configs, again.primary, again.description) == (short.configs, short.primary, "Why?")
    assert (is_for_wandb(short), is_for_wandb(again)) == (False, True)
    assert all(is_for_wandb(find(name)) for name in bundled_names())
    assert not is_for_wandb(parse(for_wandb(short).replace("values:\n    - 0\n    - 1\n", "value: 0..1\n", 1)))


def test_the_template_is_a_study() -> None:
    study = parse(template("mine"))
    assert (study.name, len(study.configs)) == ("mine", 28)
    with pytest.raises(InputError, match="is not usable"):
        template("../x")


@pytest.mark.parametrize("name", ["mine", "2026", "1e3", "no", "null", "True", "010", "0x1f", "2026-11-28", "1.5"])
def test_the_template_is_a_study_of_any_name(name: str) -> None:
    study = parse(template(name))
    assert study.name == name
    assert len(study.configs) == 28


def test_the_papers_study_is_the_papers() -> None:
    """Miyato et al. 2018: Tables 1 and 3, and the arms of Table 2, of which spectral normalization per update."""
    configs = find("cifar10-paper").configs
    assert {config.setting for config in configs} == set("ABCDEF")
    assert {(c.architecture, c.channels, c.z_dim, c.g_width, c.d_width, c.batch_size, c.steps) for c in configs} == {
        ("sndcgan32", 3, 128, 64, 64, 64, 100_000)
    }
    assert {c.arm for c in configs} >= {"sn", "plain", "dcgan", "clip", "gp", "ln", "wn", "ortho"}
    assert {c.power_iteration for c in configs if ARMS[c.arm].constraint == "spectral_norm"} == {"per_update"}
    assert {c.precision for c in configs} == {"float32"}


@pytest.mark.slow
@pytest.mark.usefixtures("any_files")
@pytest.mark.parametrize(("name", "setting"), [("cifar10-paper", "C"), ("fashion-core", "C")])
def test_every_arm_of_a_study_starts_on_files_of_the_real_format(name: str, setting: str, tmp_path: Path) -> None:
    """At a quarter of the networks' width, and one arm at the study's own."""
    write_cifar(tmp_path, n=200)
    write_idx(tmp_path / "FashionMNIST" / "raw", n=300)
    chosen = [config for config in find(name).configs if (config.seed, config.setting) == (0, setting)]
    for config in chosen:
        config = replace(config, steps=2, n_fake=60, threads=1, device="cpu", wandb="disabled", data_dir=str(tmp_path))
        if config.arm != "sn":
            config = replace(config, g_width=16, d_width=16)
        assert execute(config, name, tmp_path / "runs", lambda message: None).state == "finished"
        rows = list(read_rows(Record(tmp_path / "runs" / config.run_id).metrics_path))
        assert [row["step"] for row in rows] == [0, 2]
        assert rows[-1]["eval/fd"] > 0
        layers = {key.partition("/")[2] for key in rows[-1] if key.startswith("sigma_conv/")}
        assert len(layers) == {"cifar10-paper": 8, "fashion-core": 3}[name]


def test_a_sweep_of_wandb_minimizes_what_the_study_is_judged_by() -> None:
    def metric(judges: str) -> str:
        return yaml.safe_load(for_wandb(parse(f"name: a\nparameters: {{judge: {judges}}}")))["metric"]["name"]

    assert [metric(of) for of in ("pixels", "digits", "[pixels, digits]")] == ["eval/fd_pixels", "eval/fd", "eval/fd"]
