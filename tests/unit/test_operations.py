"""`cellmill status`, the end of a run that failed, and where the time went."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from cellmill.cli import main
from cellmill.operations.failures import said_of_failures
from cellmill.operations.jobs import LOCK, error_in, jobs
from cellmill.operations.times import write_times
from cellmill.stages import JOBS, SAME, SHARED, STAGES

ROOT = Path(__file__).resolve().parents[2]
ERROR = "2026-11-21 10:00:00 ERROR process_part: cells.h5ad: X has -1 at cell 3. Take raw counts.\n"
TRACEBACK = (
    '2026-11-21 10:00:00 ERROR fit_pca: Traceback (most recent call last):\n  File "x.py"\nValueError: 3 is not 4\n'
)
INFO = "2026-11-21 10:00:00 INFO process_part: processing: 10 of 20 cells\n"


def log(folder: Path, rule: str, name: str, text: str, *, at: float = 100) -> Path:
    path = folder / "logs" / rule / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at, at))
    return path


def benchmark(folder: Path, rule: str, name: str, *, at: float = 101, **values: object) -> None:
    path = folder / "benchmarks" / rule / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"s": 2.0, "cpu_time": 1.5, "max_rss": 300.0, "io_in": 1.0, "io_out": 2.0, **values}) + "\n"
    )
    os.utime(path, (at, at))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one dataset of two parts, one done, one failed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config" / "datasets").mkdir(parents=True)
    values = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    (tmp_path / "config" / "config.yaml").write_text(yaml.safe_dump(values | {"datasets": ["cells"]}))
    for name in "ab":
        (tmp_path / f"{name}.h5ad").touch()
    spec = {"title": "Cells", "source": {"kind": "files", "files": {"a": "a.h5ad", "b": "b.h5ad"}}, "exports": []}
    (tmp_path / "config" / "datasets" / "cells.yaml").write_text(yaml.safe_dump(spec))
    (tmp_path / "results" / "cells" / "processed").mkdir(parents=True)
    (tmp_path / "results" / "cells" / "processed" / "a.h5ad").touch()
    log(tmp_path, "process_part", "cells.a", INFO)
    benchmark(tmp_path, "process_part", "cells.a")
    log(tmp_path, "process_part", "cells.b", INFO + ERROR, at=200)
    return tmp_path


RULE = re.compile(r"^(?:rule|checkpoint|use rule (\w+) as) (\w+)(?: with)?:\n((?:(?: .*)?\n)+)", re.MULTILINE)
OUTPUT = re.compile(r"^    output:\n((?:        .*\n)+)", re.MULTILINE)


def test_every_rule_belongs_to_a_stage() -> None:
    """A rule that is not entered, in one stage, with what it has a job for each of, is noticed here."""
    text = "".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    rules = {name: (like, OUTPUT.search(body)) for like, name, body in RULE.findall(text)}
    assert len(rules) == len(re.findall(r"^(?:rule|checkpoint|use rule) ", text, re.MULTILINE))
    jobs_of = {n: set(re.findall(r"{(\w+)}", out[1])) - {"dataset"} for n, (_, out) in rules.items() if out}
    assert {n: set(wildcards) for n, wildcards in JOBS.items()} == {
        n: wildcards for n, wildcards in jobs_of.items() if n not in SHARED
    }
    assert jobs_of.keys() == rules.keys() >= set(SHARED)
    assert len(JOBS) == sum(map(len, STAGES.values()))
    assert SAME == {name: like for name, (like, _) in rules.items() if like}


def test_status_counts_files_and_names_the_first_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each stage how much is done; the reason and the log of what failed first."""
    log(folder, "measure_genes", "cells.a", TRACEBACK, at=300)
    assert main(["status"]) == 0
    said = capsys.readouterr().out
    assert "no run is at work" in said
    assert re.search(r"processed +1 of 2 done, 1 failed\n", said)
    assert re.search(r"raw +0 of 2 done\n", said)
    assert re.search(r"genes +0 of 1 done, 1 failed\n", said)
    assert "failed first: process_part cells.b: cells.h5ad: X has -1 at cell 3." in said
    assert "log: logs/process_part/cells.b.log" in said


def test_a_job_without_an_end_runs_or_was_cut_off(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That depends on whether a run holds the folder."""
    log(folder, "process_part", "cells.b", INFO, at=200)
    assert main(["status", "cells"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"processed +1 of 2 done, 1 cut off\n", said)
    assert "cut off first: process_part cells.b: its log ends without an error" in said
    (folder / LOCK).parent.mkdir()
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["status", "cells"]) == 0
    said = capsys.readouterr().out
    assert "a run is at work" in said and re.search(r"processed +1 of 2 done, 1 running\n", said)


def test_a_job_that_runs_again_is_not_done(folder: Path) -> None:
    """A benchmark older than the log is of the job before."""
    benchmark(folder, "process_part", "cells.b", at=150)
    states = {job.name: job.state for job in jobs(folder)}
    assert states == {"cells.a": "done", "cells.b": "failed"}
    benchmark(folder, "process_part", "cells.b", at=250)
    assert {job.state for job in jobs(folder)} == {"done"}


def test_status_of_an_unknown_dataset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "cell"]) == 1
    assert "Did you mean 'cells'?" in capsys.readouterr().err


def test_an_error_is_its_sentence_or_the_end_of_its_traceback(tmp_path: Path) -> None:
    assert error_in(log(tmp_path, "r", "x", INFO + ERROR)) == "cells.h5ad: X has -1 at cell 3. Take raw counts."
    assert error_in(log(tmp_path, "r", "x", INFO + TRACEBACK)) == "ValueError: 3 is not 4"
    assert error_in(log(tmp_path, "r", "x", INFO)) == ""


def test_the_end_of_a_run_tells_of_its_own_failures_only(folder: Path) -> None:
    """Not of jobs that failed in a run before."""
    said = said_of_failures(folder, since=150)
    assert said.splitlines()[0] == "1 job did not end well:"
    assert "process_part cells.b: cells.h5ad: X has -1" in said and "log: logs/process_part/cells.b.log" in said
    assert said_of_failures(folder, since=250) == ""


def test_times_are_a_row_for_each_job_and_a_picture(folder: Path) -> None:
    """Seconds, memory used and memory asked for, of this dataset alone."""
    benchmark(folder, "process_part", "cells.b", s=4.5, resources={"mem_mb": 4000})
    benchmark(folder, "process_part", "cells2.a")
    benchmark(folder, "write_report", "cells", s=1.0, io_in=None)
    table, figure = folder / "times.tsv", folder / "times.svg"
    assert write_times(folder, "cells", table=table, figure=figure) == 3
    with table.open() as file:
        rows = {(row["rule"], row["job"]): row for row in csv.DictReader(file, delimiter="\t")}
    assert rows.keys() == {("process_part", "a"), ("process_part", "b"), ("write_report", "")}
    assert rows["process_part", "b"]["seconds"] == "4.50" and rows["process_part", "b"]["asked_mb"] == "4000"
    assert rows["process_part", "a"]["asked_mb"] == "" and rows["write_report", ""]["read_mb"] == ""
    text = figure.read_text()
    assert "process_part" in text and "write_report" in text and "Seconds, all jobs of a rule" in text


def test_no_jobs_no_picture(tmp_path: Path) -> None:
    assert write_times(tmp_path, "cells", table=tmp_path / "t.tsv", figure=tmp_path / "t.svg") == 0
    assert list(tmp_path.iterdir()) == []
