"""Archives of runs: cut off anywhere, they lose what follows their last run."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
from conftest import ended_records

from experiments.gpu import archive
from experiments.gpu.archive import Archives, unpack
from experiments.record import Record


def test_a_run_comes_back_as_what_a_freeze_keeps(archived: tuple[Path, list[Record]], tmp_path: Path) -> None:
    path, records = archived
    assert not list(unpack(path, tmp_path / "back"))
    for record in records:
        folder = tmp_path / "back" / "tiny" / record.run_id
        names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        (grid,) = [name for name in names if name.startswith("samples/")]
        assert grid == f"samples/{max(file.name for file in record.samples_path.glob('step-*.png'))}"
        rows = {"config.json", "protocol.json", "status.json", "metrics.jsonl", "evaluations.jsonl"}
        assert names == {*rows, "discriminator.safetensors", grid}
        for name in names - {"discriminator.safetensors"}:
            assert (folder / name).read_bytes() == (record.folder / name).read_bytes(), name
        weights = archive.discriminator_weights(Record(folder))
        assert weights == archive.discriminator_weights(record)
        assert weights
    assert (tmp_path / "back" / "tiny" / "study.yaml").read_text() == (
        records[0].folder.parent / "study.yaml"
    ).read_text()


def test_cut_anywhere_it_loses_what_follows_its_last_run(archived: tuple[Path, list[Record]], tmp_path: Path) -> None:
    path, records = archived
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    ends = [member.offset_data + member.size for member in members[1:]]
    wholes = [member.offset for member in members[1:]] + [len(content)]
    picker = random.Random(5)
    cuts = {0, 1, 511, 512, 513, *(end + d for end in ends for d in (-1, 0, 1))}
    cuts |= {whole + d for whole in wholes for d in (-1, 0, 1, 300)}  # 300: within a header
    cuts |= {picker.randrange(len(content)) for _ in range(25)}
    for cut in sorted(cut for cut in cuts if cut <= len(content)):
        path.write_bytes(content[:cut])
        notes = list(unpack(path, tmp_path / f"cut-{cut}"))
        found = {record.run_id for record in ended_records(tmp_path / f"cut-{cut}" / "tiny")}
        assert found == {record.run_id for record, end in zip(records, ends, strict=True) if end <= cut}, cut
        assert [("cut off" in note) for note in notes] == [True] * (cut not in wholes), cut


def test_what_is_damaged_or_no_runs_is_left_out_and_named(archived: tuple[Path, list[Record]], tmp_path: Path) -> None:
    path, records = archived
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        first, second = tar.getmembers()[1:3]
    middle = second.offset_data + second.size // 2
    path.write_bytes(content[:middle] + bytes(b ^ 0xFF for b in content[middle : middle + 50]) + content[middle + 50 :])
    (note,) = unpack(path, tmp_path / "back")
    assert f"{records[1].run_id} is damaged, and left out" in note
    assert Path(first.name).name == f"{records[0].run_id}.tar.xz"
    left = {r.run_id for r in ended_records(tmp_path / "back" / "tiny")}
    assert left == {r.run_id for r in (records[0], *records[2:])}
    assert not (tmp_path / "back" / "tiny" / records[1].run_id).exists()

    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as tar:
        for name in ("../../outside.json", "/tmp/outside.json", "status.json"):
            tar.addfile(archive.header(name, b"{}"), io.BytesIO(b"{}"))
    hostile = tmp_path / "hostile.tar"
    for name in ("../outside/study.yaml", "/tmp/outside/study.yaml", "tiny/../x.tar.xz", "tiny/made-up.tar.xz"):
        archive.append(hostile, name, inner.getvalue())
    link = tarfile.TarInfo("tiny/link.tar.xz")
    link.type, link.linkname = tarfile.SYMTYPE, "../../outside"
    with open(hostile, "ab") as file:
        file.write(link.tobuf())
    archive.append(hostile, "tiny/study.yaml", b"name: [")
    notes = list(unpack(hostile, tmp_path / "deep" / "er"))
    assert [("is no run's" in note) for note in notes] == [True, True, True, False, True, False]
    assert "made-up is not what its status says" in notes[3]
    assert "the plan of tiny is left out" in notes[5]
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name]
    assert not [path for path in (tmp_path / "deep").rglob("*") if path.is_file()]


def test_a_run_whose_rows_were_changed_is_left_out(mixed_study: Path, tmp_path: Path) -> None:
    record = ended_records(mixed_study)[0]
    record.metrics_path.write_bytes(record.metrics_path.read_bytes().replace(b"1", b"2", 1))
    Archives(tmp_path, "tiny", (mixed_study / "study.yaml").read_text()).add(record)
    (note,) = unpack(tmp_path / "runs-0.tar", tmp_path / "back")
    assert f"{record.run_id} is not what its status says" in note


def test_archives_are_filled_one_after_the_other(
    mixed_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = ended_records(mixed_study)
    size = max(len(archive.packed(record)) for record in records)
    monkeypatch.setattr(archive, "BYTES", size + 4000)  # one run each
    monkeypatch.setattr(archive, "MOST", 2)
    archives = Archives(tmp_path, "tiny", "name: tiny")
    for record in records[:3]:
        assert not archives.full
        archives.add(record)
    assert archives.full
    assert archives.runs == {f"runs-{i}.tar": [records[i].run_id] for i in range(2)}
    assert all(path.stat().st_size <= size + 4000 for path in tmp_path.glob("*.tar"))
