"""What the jobs of a folder left behind: a log from their start on, a benchmark when they are done."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["done", "running", "cut off", "failed"]
LOCK = Path(".snakemake/cellmill.lock")
"""Held by a run as long as it lives (workflow/rules/common.smk)."""
_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (\w+) \w+: ")


@dataclass(frozen=True)
class Job:
    """One job, the latest of its name."""

    rule: str
    name: str
    """Dataset and what else tells it from others of its rule, such as ``pbmc68k.rank.0``."""
    state: State
    log: Path
    changed: float
    """When its log was last written to, in seconds since 1970."""
    reason: str = ""
    """What the log says went wrong, in one line; where it failed."""

    @property
    def dataset(self) -> str:
        return self.name.partition(".")[0]


def at_work(folder: Path) -> bool:
    """Whether a run is at work in this folder now."""
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def jobs(folder: Path) -> list[Job]:
    """Every job that left a log in ``folder/logs``, by rule and name.

    A benchmark is written when a job is done: one as new as the log says so.
    Without it a job runs, or where no run is at work (nor says its log what went wrong) was cut off.
    """
    works = at_work(folder)
    found = []
    for log in sorted((folder / "logs").glob("*/*.log")):
        rule, name, changed = log.parent.name, log.stem, log.stat().st_mtime
        benchmark = folder / "benchmarks" / rule / f"{name}.jsonl"
        relative = log.relative_to(folder)
        if benchmark.exists() and benchmark.stat().st_mtime >= changed:
            found.append(Job(rule, name, "done", relative, changed))
        elif reason := error_in(log):
            found.append(Job(rule, name, "failed", relative, changed, reason))
        else:
            found.append(Job(rule, name, "running" if works else "cut off", relative, changed))
    return found


def error_in(log: Path) -> str:
    """The first sentence of the last error in a log; of a traceback its last line; empty where there is none."""
    lines = log.read_text(errors="replace").splitlines()
    heads = [_LINE.match(line) for line in lines]
    starts = [i for i, head in enumerate(heads) if head is not None and head[1] == "ERROR"]
    if not starts:
        return ""
    head = heads[starts[-1]]
    first = lines[starts[-1]][head.end() if head else 0 :]
    rest = [line.strip() for line in lines[starts[-1] :] if line.strip()]
    return rest[-1] if first.startswith("Traceback") else first


def measured(folder: Path, dataset: str) -> Iterator[dict[str, Any]]:
    """What Snakemake measured of each job of a dataset, with ``rule`` and ``job``, in the order of their names.

    Of a job that runs a model also how fast that was: ``{name}.rates.json`` beside its benchmark.
    """
    for path in sorted((folder / "benchmarks").glob(f"*/{dataset}.*jsonl")):
        said = json.loads(path.read_text().splitlines()[-1])
        job = path.stem.removeprefix(dataset).removeprefix(".")
        rates = path.with_suffix(".rates.json")
        fast = json.loads(rates.read_text()) if rates.exists() else {}
        yield {**said, **fast, "rule": path.parent.name, "job": job}
