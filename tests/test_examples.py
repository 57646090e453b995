"""The worked examples: every command of the page gives the sentence under it, and the numbers that were published."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

EXAMPLES = ROOT / "analysis" / "examples"
PAGE = (EXAMPLES / "README.md").read_text()
COMMANDS = re.findall(r"```sh\nsngan (report .+?)\n```\n\n> (.+)\n", PAGE)


def made(line: str, folder: Path, command: Callable[..., tuple[int, str, str]]) -> dict[str, Any]:
    words = shlex.split(line)
    words[1] = f"table:{EXAMPLES / words[1].removeprefix('table:')}"
    code, output, errors = command(*words, "--figures", "svg", "--runs-dir", folder)
    assert code == 0, errors
    return json.loads((Path(output.strip()).parent / "statistics.json").read_text())


@pytest.mark.parametrize(("line", "said"), COMMANDS)
def test_commands_say_what_the_page_quotes(
    line: str, said: str, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    assert made(line, tmp_path, command)["short"][0] == said


def test_the_page_has_its_examples_and_files() -> None:
    assert len(COMMANDS) == PAGE.count("```sh") == 5
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (EXAMPLES / link).exists(), link


def arms(statistics: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(statistics["arms"]).set_index("arm")


def test_published_numbers(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    """As printed by the authors; of rliable by its definitions, from scipy."""
    atari, snr, time, loss = (made(line, tmp_path / str(i), command) for i, (line, _) in enumerate(COMMANDS[:4]))
    across = pd.DataFrame(atari["across"]).set_index("arm")
    assert across["q_iqm"].round(3).to_dict() == {"TWM": 0.459, "DIAMOND": 0.641}
    table = pd.read_csv(EXAMPLES / "atari100k.csv")
    for arm, of in table.groupby("method"):
        assert across.loc[arm, "q_iqm"] == pytest.approx(stats.trim_mean(of["human_normalized"], 0.25), rel=1e-12)
    of = {key: game["human_normalized"].to_numpy() for key, game in table.groupby(["method", "game"])}
    chances = [
        stats.mannwhitneyu(of["DIAMOND", game], of["TWM", game]).statistic / 25 for game in table["game"].unique()
    ]
    assert across.loc["DIAMOND", "prob_improvement"] == pytest.approx(sum(chances) / 26, rel=1e-12)
    assert across.loc["DIAMOND", "p"] == pytest.approx(stats.wilcoxon([c - 0.5 for c in chances]).pvalue, rel=0.05)
    assert arms(atari).loc["DIAMOND", "q_mean"].mean() == pytest.approx(1.459, abs=5e-4)
    found = arms(snr)[["q_mean", "q_mean_sd"]].round(3)
    assert found.loc["baseline"].tolist() == [59.326, 3.961]
    assert found.loc["min-SNR"].tolist() == [55.515, 1.162]
    found = arms(loss)[["q_mean", "q_mean_sd"]].round(4)
    assert found.loc["DecoupledWSSchedule"].tolist() == [3.2792, 0.0014]
    assert found.loc["previous_record"].tolist() == [3.2782, 0.0015]
    found = arms(time)[["q_mean", "q_mean_sd"]].round(3)
    assert found.loc["previous_record"].tolist() == [129.407, 0.601]
    assert found.loc["DecoupledWSSchedule", "q_mean"] == 128.893
