"""The only module that knows ``snakemake``: logging, threads, the GPU and errors of a job."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.errors import CellmillError
from cellmill.operations.gpus import take_gpu

if TYPE_CHECKING:
    from cellmill.exports.export import About
    from cellmill.exports.rows import PartFiles
    from cellmill.sources.download import Download

for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")  # a job takes the threads its rule names; sums must not depend on their number


@contextmanager
def job(snakemake: Any) -> Iterator[Any]:
    """Run a script's one call: its log goes to the rule's log file, a ``CellmillError`` ends it with one sentence.

    A job that asks for a GPU sees one that is no other job's.
    """
    formatter = logging.Formatter(f"%(asctime)s %(levelname)s {snakemake.rule}: %(message)s", "%Y-%m-%d %H:%M:%S")
    log = logging.getLogger("cellmill")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.FileHandler(snakemake.log[0], mode="w")
    handler.setFormatter(formatter)
    log.addHandler(handler)
    try:
        if snakemake.resources.get("gpu"):
            take_gpu()
        yield snakemake
    except CellmillError as error:
        log.error("%s", error)
        print(f"{snakemake.rule}: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        log.error("%s", traceback.format_exc())
        raise
    else:
        log.info("took %.1f s of CPU and %d MB of memory at its peak", *_taken())
    finally:
        log.removeHandler(handler)
        handler.close()


def _taken() -> tuple[float, int]:
    """CPU seconds of this process and those that it waited for, and its own peak memory in MB.

    Linux keeps the peak of the program alone; ``getrusage``, which other systems have, begins with the parent's.
    """
    used, status = os.times(), Path("/proc/self/status")
    if status.exists():
        peak = int(re.findall(r"^VmHWM:\s+(\d+)", status.read_text(), re.MULTILINE)[0]) // 1_000
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_000_000
    return used.user + used.system + used.children_user + used.children_system, peak


def mirror(snakemake: Any) -> Path | None:
    """The mirror folder; not a param, because asking elsewhere changes no byte."""
    folder = snakemake.config.get("mirror")
    return None if folder is None else Path(folder)


def download(snakemake: Any) -> Download:
    """How files are fetched; not a param, because it changes no byte."""
    from cellmill.sources.download import Download

    return Download(**snakemake.config.get("download", {}))


def plan(snakemake: Any) -> Path | None:
    """The plan of the dataset, where it has one."""
    return Path(snakemake.input.plan) if snakemake.input.plan else None


def part_files(snakemake: Any) -> list[PartFiles]:
    """The row-aligned files of each part, from inputs that list parts within tokenizers and embedders."""
    from cellmill.exports.rows import PartFiles

    processed = list(snakemake.input.processed)

    def by_name(files: list[str], names: list[str], part: int) -> dict[str, str]:
        return {name: files[i * len(processed) + part] for i, name in enumerate(names)}

    tokens, vectors = list(snakemake.input.tokens), list(snakemake.input.embeddings)
    return [
        PartFiles(
            path, by_name(tokens, snakemake.params.tokenizers, i), by_name(vectors, snakemake.params.embedders, i)
        )
        for i, path in enumerate(processed)
    ]


def about(snakemake: Any) -> About:
    """What the manifest and the card say of the dataset."""
    from cellmill.columns import Columns
    from cellmill.exports.export import About

    said = dict(snakemake.params.about)
    return About(**{**said, "columns": Columns(**said["columns"])})


def run_export(snakemake: Any) -> None:
    """The one call of every export script."""
    from cellmill.exports import parse_export
    from cellmill.exports.export import export

    with job(snakemake) as said:
        export(
            part_files(said),
            path=said.params.path,
            spec=parse_export(said.params.path, said.params.spec),
            about=about(said),
            ledger=said.input.ledger,
            genes=said.input.genes,
            vocabulary_file=next(iter(said.input.vocabulary), None),
            out=said.output.manifest,
            threads=said.threads,
        )
