"""What the page says besides tables and figures."""

import dataclasses
import re
from pathlib import Path

import pandas as pd
from conftest import rewrite_end
from others import own_images

from analysis import measured
from analysis.events import Thresholds
from analysis.load import load
from analysis.page import tables
from analysis.page.content import READING, content_of, reading, sections_of
from analysis.page.opening import Opening, Said
from analysis.page.pictures import Picture
from analysis.page.report import rendered
from analysis.page.tables import Table
from analysis.study import Study
from analysis.terms import OURS
from experiments.record import run_folders
from sngan.config import TRAINING_VERSION


def page_of(study: Study) -> str:
    shown = [tables.of("protocol", measured.protocols(study))]
    return rendered(content_of(study, shown, Thresholds(), Opening([Said("What there is.")])), [])


def test_everything_is_shown_once_and_nothing_empty() -> None:
    full, empty = pd.DataFrame({"arm": ["sn"], "n": [3]}), pd.DataFrame({"arm": []})
    shown = [Table(name, name, "", full) for name in ("verdicts", "arms", "runs")]
    shown += [Table(name, name, "", empty) for name in ("quality", "failures")]
    kinds = ("distance", "losses", "causes", "differences")
    drawn = [Picture(f"{kind}-c", f"{kind}: c", "", b"", "<svg></svg>", kind, "c") for kind in kinds]
    sections = sections_of(False, shown, [*drawn, Picture("samples", "samples", "", b"", "", "samples")])
    assert [section.anchor for section in sections] == ["quality-and-norms", "what-failed", "judged", "more"]
    at_once = {
        section.anchor: [p.kind for p in section.pictures] + [t.file for t in section.tables] for section in sections
    }
    assert at_once == {
        "quality-and-norms": ["distance", "arms"],
        "what-failed": ["causes"],
        "judged": ["verdicts"],
        "more": [],
    }
    folded = {section.anchor: [(of.anchor, of.title) for of in section.folded] for section in sections}
    assert folded["judged"] == [("figures-differences", "differences")]
    assert folded["more"] == [("figures-losses", "losses"), ("runs", "runs")]
    quiet = sections_of(False, shown[1:], [])
    assert [section.anchor for section in quiet] == ["quality-and-norms", "more"]


def test_different_protocols_are_shown_and_warned_of(mixed_study: Path) -> None:
    record = run_folders(mixed_study)[0]
    record.write_protocol(record.protocol() | {"feature_net_sha256": "another"})
    rewrite_end(record, record.status() | record.digests())
    study = load(mixed_study)
    assert measured.protocols(study)["runs"].tolist() == [1, 4]
    assert "samples were judged in more than one way; their numbers cannot be compared" in page_of(study)
    (record.folder / "protocol.json").unlink()  # as in records of an older program
    rewrite_end(record, {name: value for name, value in record.status().items() if name != "protocol_sha256"})
    study = load(mixed_study)
    assert measured.protocols(study)["runs"].tolist() == [4]
    assert "more than one way" not in page_of(study)
    rewrite_end(record, record.status() | {"training_version": 4})  # which knew the digest of the metrics alone
    (record.folder / "protocol.json").write_text("[]")
    study = load(mixed_study)
    assert "protocol.json: expected an object" in study.runs.set_index("run_id").loc[record.run_id, "damage"]
    assert measured.protocols(study)["runs"].tolist() == [4]


def test_results_of_different_training_code_are_warned_of(mixed_study: Path) -> None:
    record = next(record for record in run_folders(mixed_study) if record.status()["state"] == "finished")
    assert "training code" not in page_of(load(mixed_study))
    rewrite_end(record, record.status() | {"training_version": 3})
    assert f"Trained by versions 3 and {TRAINING_VERSION} of the training code" in page_of(load(mixed_study))


def test_the_report_says_which_contexts_are_primary_and_that_they_were_named_before(mixed_study: Path) -> None:
    study = load(mixed_study)
    assert "have one context here" in page_of(study)
    named = dataclasses.replace(study, primary={"failures": "mnist, lr 0.03", "spread": "mnist, lr 0.005"})
    text = page_of(named)
    assert "The study&#39;s file names beforehand the contexts" in text
    assert "What a launched or frozen study has named stays." in text
    assert "whether SN-DCGAN fails less than DCGAN (C7a): mnist, lr 0.03" in text
    several = study.runs.assign(context=["a", "b"] * 3)
    assert "names no context for the primary outcomes" in page_of(dataclasses.replace(study, runs=several))


def test_how_to_read_the_page_says_what_judges(tmp_path: Path) -> None:
    def read(judge: str) -> str:
        study = own_images(tmp_path, ("a", 3, judge))
        return "\n".join(content_of(study, [], Thresholds())["reading"])

    assert reading(OURS) == list(READING)
    assert "classifier" not in read("pixels")
    assert not re.search(r"\bfd\b", read("pixels"))
    assert "in the features of Inception" in read("inception")
    assert "fd and coverage say what it learned, in the features of a small classifier" in read("mnist")
    assert READING[-1] in read("labels")
    assert "folder aaaaaaaa: the user's own images" in read("labels")
