"""What columns mean: mappings, advice, names of runs."""

from pathlib import Path

import pytest
from others import MAPPING, chart, read_text, results, some_table

from analysis.sources.columns import Reading, parse_mapping, written
from analysis.sources.table import from_table, read
from sngan.config import InputError


def test_mappings(tmp_path: Path) -> None:
    assert parse_mapping("quality=fid, arm=method") == {"quality": "fid", "arm": "method"}
    hard = {"quality": 'FID, 50k "clean"', "arm": "a=b"}
    assert parse_mapping(written(hard)) == hard
    wrongs = {"qualty=fid": "is none of arm, seed", "quality": "lacks its column", "quality=": "lacks its column",
              "arm=a,arm=b": "the name 'arm' appears twice", "arm=a,seed=a": "the column 'a' appears"}  # fmt: skip
    for wrong, message in wrongs.items():
        with pytest.raises(InputError, match=message):
            parse_mapping(wrong)
    with pytest.raises(InputError, match=r"lacks arm \(column 'arm'\), quality \(column 'nothing'\); its columns are"):
        from_table(some_table(), Reading({"quality": "nothing"}), "mine", tmp_path)
    with pytest.raises(InputError, match=r"no arm 'c'.*\(base, better, lr 1\)"):
        from_table(some_table(), Reading(MAPPING, baseline="c"), "mine", tmp_path)
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / "none.csv", Reading(), tmp_path)


@pytest.mark.parametrize(
    ("header", "advice"),
    [
        ("Method,Seed,Iteration,FID", "try --map arm=Method,seed=Seed,step=Iteration,quality=FID"),
        ("algorithm,seed,epoch,KID", "try --map arm=algorithm,step=epoch,quality=KID"),
        ("MODEL,seed,kimg,metrics/FID", "try --map arm=MODEL,step=kimg,quality=metrics/FID"),
        ("Model,Random Seed,Accuracy", "try --map 'arm=Model,seed=Random Seed,quality=Accuracy' --maximize"),
        ("agent,seed,env_id,return", "try --map arm=agent,quality=return,dataset=env_id --maximize"),
        ("a,b,c", "say which with --map NAME=COLUMN,.."),
        ("method,seed,c", "try --map arm=method, with quality=COLUMN"),
        ("run,step,FID", "try --map quality=FID --run-name '(?P<arm>.+?)"),
        ("method,seed,fid50k_full", "try --map arm=method,quality=fid50k_full"),
        ("config.method,config.seed,FID-50k", "try --map arm=config.method,seed=config.seed,quality=FID-50k"),
        ("method,run,val_loss", "try --map arm=method,quality=val_loss"),
    ],
)
def test_the_error_prints_what_to_write(header: str, advice: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:  # what was given stays
        read_text(tmp_path, "method,seed,Accuracy\na,1,2\n", maximize=True, baseline="b")
    assert "try --map arm=method,quality=Accuracy --baseline b --maximize" in str(error.value)
    with pytest.raises(InputError) as error:
        read_text(tmp_path, f"{header}\n{','.join('dqn-seed1' for _ in header.split(','))}\n")
    assert f": {advice}" in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "is no regular expression"), ("(?P<arm>.+)", "it lacks seed"),
     ("(?P<arm>x)(?P<seed>9)", "does not match the run"),
     ("(?P<arm>.)(?P<seed>.)(?P<lr>.)", "the group 'lr' is none of arm, seed, dataset, setting")],
)  # fmt: skip
def test_run_names_that_cannot_be_taken_apart(pattern: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_text(tmp_path, chart(), run_name=pattern)
    both = "run,arm,quality\nb1,a,1\n"
    study = read_text(tmp_path, both, run_name="(?P<arm>.)(?P<seed>.)")
    assert (study.runs["arm"].item(), study.warnings) == ("b", ["columns that are not used: arm"])
    with pytest.raises(InputError, match="reads the column 'run', which is not there"):
        read_text(tmp_path, "arm,quality\na,1\n", run_name="(?P<arm>.)(?P<seed>.)")


@pytest.mark.parametrize(
    ("column", "maximize", "doubt"),
    [*((name, False, "more") for name in ("accuracy", "IS", "inception_score", "eval/reward", "episodeReturn", "recall",
                                          "coverage", "test_acc", "Mean Return", "reward")),
     *((name, True, "less") for name in ("FID", "kid", "val_loss", "FID50k_full")),
     *((name, False, "") for name in ("fid", "FID50k_full", "is_fid", "distance", "widescore")),
     ("accuracy", True, "")],
)  # fmt: skip
def test_a_quality_whose_name_says_the_other_side_is_warned_of(
    column: str, maximize: bool, doubt: str, tmp_path: Path
) -> None:
    study = from_table(
        results(0).rename(columns={"score": column}), Reading({"quality": column}, maximize=maximize), "t", tmp_path
    )
    said = [text for text in study.warnings if "usually better" in text]
    assert bool(said) == bool(doubt)
    assert all(f"{column!r} {doubt} is usually better" in text for text in said)
