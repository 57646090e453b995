"""Files as people have them: each format gives the same table."""

import bz2
import gzip
import json
import lzma
import math
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from others import MAPPING, chart, read_text, some_table

from analysis.load import load
from analysis.sources import formats
from analysis.sources.columns import COLUMNS, Reading
from analysis.sources.table import read
from sngan.config import InputError


def test_other_encodings_and_delimiters_are_read(tmp_path: Path) -> None:
    text = "arm,seed,quality\né,1,2.5\nb,1,3.5\n"
    contents = {
        "bom.csv": b"\xef\xbb\xbf" + text.encode(), "wide.csv": text.encode("utf-16"),
        "semicolons.csv": text.replace(",", ";").encode(), "tabs.tsv": text.replace(",", "\t").encode(),
        "crlf.txt": text.replace("\n", "\r\n").encode(), "blanks.csv": text.replace("seed,", " seed , ").encode(),
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        study = read(tmp_path / name, Reading(), tmp_path / "out")
        assert study.history[["arm", "seed", "eval/fd"]].to_numpy().tolist() == [["b", 1, 3.5], ["é", 1, 2.5]], name
    pd.read_csv(tmp_path / "bom.csv").to_csv(tmp_path / "t.csv.gz", index=False)
    study = read(tmp_path / "t.csv.gz", Reading(), tmp_path / "out")
    assert (study.name, len(study.runs)) == ("t", 2)
    (tmp_path / "latin.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="it is neither UTF-8 nor UTF-16"):
        read(tmp_path / "latin.csv", Reading(), tmp_path / "out")


def test_the_same_table_in_every_format(tmp_path: Path) -> None:
    table = some_table().drop(columns="note")
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    rows = [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "t.json").write_text(json.dumps(rows))
    nested = [{"config": {"method": row.pop("method"), "seed": row.pop("seed")}, **row} for row in rows]
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, nested)))
    frames = {}
    for name in ("t.csv", "t.parquet", "t.jsonl", "t.json", "n.jsonl"):
        of = {"arm": "config.method", "seed": "config.seed"} if name == "n.jsonl" else {}
        frames[name] = read(tmp_path / name, Reading({**MAPPING, **of}), tmp_path / "out").history
        frames[name] = frames[name].drop(columns=["context", "dataset"])  # the file's name
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(frame[frames["t.csv"].columns], frames["t.csv"], obj=name)
    for name, content, message in (
        ("bad.jsonl", '{"arm": 1}\nx', "as JSON lines, one object per line"),
        ("bad.json", "[1]", "object 1 is str"),
        ("bad.parquet", "x", "as Parquet"),
    ):
        with pytest.raises(InputError, match=message):
            read_text(tmp_path, content, name)


def test_json_that_hides_something_is_refused(tmp_path: Path) -> None:
    good = '{"arm": "a\u2028b", "seed": 1, "quality": 2}\n'
    assert read_text(tmp_path, good, "t.jsonl").runs["arm"].tolist() == ["a\u2028b"]
    with pytest.raises(InputError, match="line 2: Expecting value"):
        read_text(tmp_path, good + "x\n", "t.jsonl")
    with pytest.raises(InputError, match="line 1: 'arm' is there twice"):
        read_text(tmp_path, '{"arm": 1, "arm": 2, "seed": 1, "quality": 2}', "t.jsonl")
    with pytest.raises(InputError, match=r"arm .* is empty in row 1"):
        read_text(tmp_path, '{"arm": null, "seed": 1, "quality": 2}', "t.jsonl")


def test_headers_as_spreadsheets_write_them(tmp_path: Path) -> None:
    """Blank lines before it, line breaks in it; and files that were compressed."""
    text = '\n\narm,seed,quality,"note\n(free)"\na,1,2,"x\ny"\n'
    assert read_text(tmp_path, text).history["eval/fd"].tolist() == [2.0]
    contents = {"t.csv.xz": lzma.compress(text.encode()), "t.csv.bz2": bz2.compress(text.encode())}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("t.csv", text)
    for name in (*contents, "t.csv.zip"):
        study = read(tmp_path / name, Reading(), tmp_path / "out")
        assert (study.name, study.history["eval/fd"].tolist()) == ("t", [2.0]), name


def test_event_files_of_tensorboard(tmp_path: Path) -> None:
    """As PyTorch writes them: a folder per run, of whose name arm and seed are parts."""
    from torch.utils.tensorboard import SummaryWriter

    for arm in ("ppo", "sac"):
        for seed in range(2):
            with SummaryWriter(str(tmp_path / "logs" / f"{arm}_s{seed}")) as writer:
                for step in range(0, 50, 10):
                    writer.add_scalar("charts/return", -float(step) - seed, step)
                    lost = arm == "sac" and seed and step > 20
                    if step == 40 and seed == 0:
                        continue  # not logged there
                    writer.add_scalar("losses/d", math.nan if lost else 0.5, step)
    how = Reading(
        {"quality": "charts/return", "loss": "losses/d"}, maximize=True, run_name=r"(?P<arm>\w+)_s(?P<seed>\d+)"
    )
    study = read(tmp_path / "logs", how, tmp_path / "out")
    assert study.runs[["arm", "seed", "state"]].to_numpy().tolist() == [
        ["ppo", 0, "finished"], ["ppo", 1, "finished"], ["sac", 0, "finished"], ["sac", 1, "diverged"],
    ]  # fmt: skip
    assert study.history.loc[study.history["run_id"] == "ppo, seed 1", "eval/fd"].tolist() == [-1, -11, -21, -31, -41]
    with SummaryWriter(str(tmp_path / "logs" / "ppo_s2")) as writer:
        for step in (0, 10):
            writer.add_scalar("charts/return", 1.0, step)
            writer.add_scalar("step", 64 * step, step)
    (tmp_path / "logs" / "none").mkdir()
    (tmp_path / "logs" / "none" / "events.out.tfevents.0").write_bytes(b"")
    again = read(tmp_path / "logs", how, tmp_path / "out")
    assert again.runs.set_index("run_id").loc["ppo, seed 2", "step"] == 10
    assert any("without any scalar, so not among the runs: none" in text for text in again.warnings)
    assert any("step (tag)" in text for text in again.warnings)
    with pytest.raises(InputError, match=r"try --map quality=charts/return --run-name .* --maximize"):
        read(tmp_path / "logs", Reading(), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a folder without TensorBoard's event files"):
        read(tmp_path / "empty", Reading(), tmp_path / "out")


def test_a_chart_that_w_and_b_exported(tmp_path: Path) -> None:
    run_name = r"(?P<arm>.+)-seed(?P<seed>\d+)"
    study = read_text(tmp_path, chart(), run_name=run_name)
    assert study.terms.quality == "FID"
    assert study.terms.step == "Step"
    assert study.history[["arm", "seed", "step", "eval/fd"]].to_numpy().tolist() == [
        ["dqn", 1, 0, 1.0], ["dqn", 1, 20, 21.0], ["dqn", 2, 10, 12.0],
        ["ppo", 1, 0, 3.0], ["ppo", 1, 20, 23.0], ["ppo", 2, 10, 14.0],
    ]  # fmt: skip
    assert study.warnings == []
    study = read_text(tmp_path, chart("eval - FID"), run_name=run_name, mapping={"quality": "eval - FID"})
    assert set(study.runs["arm"]) == {"dqn", "ppo"}
    with pytest.raises(InputError, match=r"try --run-name '\(\?P<arm>.+\?\)\[-_ /\.\]\*\(\?:seed\|s\)"):
        read_text(tmp_path, chart())
    with pytest.raises(InputError, match="two runs of this W&B chart are called 'x1'"):
        read_text(tmp_path, chart(runs=("x1", "x1")), run_name=run_name)
    both = chart("eval - FID").replace("ppo-seed2 - eval - FID", "ppo-seed2 - fid")
    study = read_text(tmp_path, both, run_name=run_name + "$")
    assert study.terms.quality == "eval - FID"
    both = chart().replace("ppo-seed2 - FID", "ppo-seed2 - fid")
    study = read_text(tmp_path, both, run_name=run_name)
    assert "what some runs call 'fid' is taken for 'FID': each run of this chart has one metric" in study.warnings


def test_what_cannot_be_unpacked_is_named(tmp_path: Path) -> None:
    text = b"arm,seed,quality\n" + b"a,1,2.5\n" * 99
    damaged = bytearray(gzip.compress(text))
    damaged[15:25] = b"\xff" * 10
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/a.csv", text)
    packed = (tmp_path / "a.csv.zip").read_bytes()
    assert len(formats.read(tmp_path / "a.csv.zip", COLUMNS).frame) == 99
    encrypted = bytearray(packed)
    for i in (packed.rfind(b"PK\x03\x04") + 6, packed.rfind(b"PK\x01\x02") + 8):
        encrypted[i] |= 1
    for name, content, message in (
        ("damaged.csv.gz", damaged, "decompressing"),
        ("encrypted.csv.zip", encrypted, "encrypted"),
        ("bomb.jsonl.gz", gzip.compress(b" " * 2**28, 9), "unpacks to more than 200 times its size"),
        ("a.csv.zst", b"(\xb5/\xfd", "unpack it first"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            formats.read(tmp_path / name, COLUMNS)


@pytest.mark.parametrize("row", [{"arm": "\ud800"}, {"arm": "a", "q\udcff": 1}])
def test_half_a_character_is_named(row: dict, tmp_path: Path) -> None:
    for name, content in (("a.jsonl", row | {"seed": 0, "quality": 1}), ("a.json", [row | {"seed": 0, "quality": 1}])):
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(InputError, match="surrogates not allowed"):
            formats.read(tmp_path / name, COLUMNS)


def test_paths_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    for path in (tmp_path / "loop.csv", tmp_path / "a\0.csv", tmp_path / ("a" * 5000 + ".csv")):
        with pytest.raises(InputError, match=r"cannot read|cannot be written"):
            load(f"table:{path}")
