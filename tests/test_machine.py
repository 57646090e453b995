import subprocess
from pathlib import Path

import pytest

from experiments import machine
from experiments.machine import resolve_device
from sngan.config import InputError


def test_devices() -> None:
    assert resolve_device("cpu").type == "cpu"
    unknown = dict.fromkeys(("gpu", "mps", "cpu:5", "cuda:x", "cuda:99999999999999999999"), "expected auto")
    for wrong, message in (unknown | {"cuda:99": "is not there"}).items():
        with pytest.raises(InputError, match=message):
            resolve_device(wrong)


def test_the_state_of_the_checkout_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
                              check=True, capture_output=True, text=True).stdout.strip()  # fmt: skip

    monkeypatch.setattr(machine, "__file__", str(tmp_path / "experiments" / "machine.py"))
    outside = machine.git_state.__wrapped__()
    assert outside == dict.fromkeys(("git_commit", "git_tree", "git_dirty"))
    git("init", "--quiet")
    (tmp_path / "sngan").mkdir()
    (tmp_path / "sngan" / "train.py").write_text("x")
    git("add", "sngan")
    git("commit", "--quiet", "--message", "x")
    tree = git("rev-parse", "HEAD:sngan")
    assert machine.git_state.__wrapped__() == {
        "git_commit": git("rev-parse", "HEAD"), "git_tree": tree, "git_dirty": False,
    }  # fmt: skip
    git("commit", "--quiet", "--allow-empty", "--message", "y")
    assert machine.git_state.__wrapped__()["git_tree"] == tree  # of the training code only
    for name, mode in (("a", 0o644), ("a.py", 0o755), ("sub/a", 0o644), ("sub.py", 0o644), ("é", 0o644)):
        path = tmp_path / "sngan" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
        path.chmod(mode)
    changed = machine.git_state.__wrapped__()["git_tree"]  # as it stands
    git("add", "sngan")
    git("commit", "--quiet", "--message", "z")
    assert changed == machine.git_state.__wrapped__()["git_tree"] == git("rev-parse", "HEAD:sngan") != tree
    (tmp_path / "new.py").touch()
    assert machine.git_state.__wrapped__()["git_dirty"] is True
    monkeypatch.setenv("PATH", "")
    without_git = {"git_commit": None, "git_tree": changed, "git_dirty": None}
    assert machine.git_state.__wrapped__() == without_git
