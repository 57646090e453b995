"""What final weights say of their run, without torch."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import small

from experiments import checkpoint
from experiments.final import said_by
from experiments.record import DIGESTS, Record
from experiments.run import execute


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("finished")
    config = small(steps=10)
    execute(config, "single", folder, lambda message: None)
    return Record(folder / config.run_id)


def test_it_is_what_torch_reads(finished: Record) -> None:
    read, said = checkpoint.read(finished.checkpoint_path), said_by(finished.checkpoint_path)
    assert {name: said[name] for name in ("state", "step", "training_version", *DIGESTS)} == {
        name: read[name] for name in ("state", "step", "training_version", *DIGESTS)
    }
    assert (said["state"], said["step"], said["error"]) == ("finished", 10, None)
    path = str(finished.checkpoint_path)
    code = (
        "import sys; from pathlib import Path; from experiments.final import said_by;"
        f"said_by(Path({path!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0


def test_a_flipped_bit_is_noticed(finished: Record, tmp_path: Path) -> None:
    content = finished.checkpoint_path.read_bytes()
    start = content.index(b"training_version")
    for place in range(start, start + 30):
        (tmp_path / "damaged.pt").write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert said_by(tmp_path / "damaged.pt") == {}
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    assert said_by(tmp_path / "cut.pt") == {}
    assert said_by(tmp_path / "none.pt") == {}


def test_a_checkpoint_to_resume_from_says_nothing(tmp_path: Path) -> None:
    for name, content in (
        ("streams.pt", {"state": "finished", "streams": {}}),
        ("none.pt", {"G": {}}),
        ("list.pt", []),
    ):
        torch.save(content, tmp_path / name)
        assert said_by(tmp_path / name) == {}


def test_a_pipe_and_numbers_of_any_length_say_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert said_by(tmp_path / "pipe.pt") == {}
    content = {"state": "finished", "step": 10**5000, "reason": [[]]}
    with zipfile.ZipFile(tmp_path / "long.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content))
    assert said_by(tmp_path / "long.pt") == {"state": "finished", "error": None}


def test_no_code_in_the_file_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "run"),)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state": "finished", "step": Evil()}))
    (tmp_path / "evil.pt").write_bytes(buffer.getvalue())
    assert said_by(tmp_path / "evil.pt") == {}
    assert not (tmp_path / "run").exists()
