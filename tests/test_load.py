from pathlib import Path

from conftest import HOSTILE, small, write_study

from analysis.load import load
from analysis.study import STATES, assemble
from experiments.run import execute
from experiments.study import find


def test_every_planned_run_is_accounted_for(mixed_study: Path) -> None:
    study = load(mixed_study)
    expected = {"finished": 3, "diverged": 1, "failed": 1, "interrupted": 0, "running": 0, "missing": 1}
    assert study.account.to_dict() == expected
    assert list(study.account.index) == list(STATES)
    runs = study.runs.set_index(["arm", "seed"])
    assert len(runs) == 6
    assert runs.loc[("sn", 2), "state"] == "missing"
    assert runs.loc[("sn", 2), "attempts"] == 0
    assert runs.loc[("dcgan", 2), "error"] == HOSTILE
    assert runs.loc[("dcgan", 0), "batch_size"] == 16
    assert study.extra == [small(arm="penalty", steps=60).run_id]
    assert "penalty" not in set(study.runs["arm"]) | set(study.history["arm"])


def test_variants_name_the_parameters_that_differ_and_contexts_the_settings(tmp_path: Path) -> None:
    folder = tmp_path / "wide"
    folder.mkdir()
    path = write_study(tmp_path, "wide", arm=["dcgan", "penalty"], penalty_weight=[0.01, 0.1], n_dis=[1, 2], steps=10)
    (folder / "study.yaml").write_text(path.read_text())
    execute(small(steps=10), "wide", folder, lambda message: None)
    runs = load(folder).runs
    assert set(runs["variant"]) == {"dcgan", "penalty, penalty_weight 0.01", "penalty, penalty_weight 0.1"}
    assert set(runs["context"]) == {"digits, setting C", "digits, setting custom"}
    assert (runs.groupby("context").size() == 3).all()


def test_the_contexts_that_a_studys_file_names_are_found(tmp_path: Path) -> None:
    plan = find("mnist-short")
    study = assemble(plan, tmp_path, {})
    assert study.primary == {
        "failures": "mnist, setting custom, lr 0.03", "spread": "mnist, setting custom, lr 0.005",
        "C14": "mnist, setting custom, lr 0.01",
    }  # fmt: skip
    assert set(study.primary.values()) < set(study.runs["context"])
    assert set(assemble(find("paper-settings"), tmp_path, {}).primary.values()) == {"mnist, setting C"}
