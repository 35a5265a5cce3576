"""A copy of the project in a temporary folder, on which the real workflow is run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]
COPIED = ("Snakefile", "workflow", "src", "config", "profiles", "resources/ledger.tsv")
EXPORTS = [
    "hf/cells",
    "hf/multiplets",
    "mds/tokens",
    "hdf5/counts",
    "h5ad/cells",
    "scdl/counts",
    "geneformer/tokens",
    "zarr/counts",
    "packed/counts",
]


TIMES = (r"/report/times\.(tsv|svg)$",)
"""What a run took differs from run to run."""


@dataclass(frozen=True)
class Project:
    """A working copy in ``root``."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> Project:
        """Copy what the workflow needs, with time stamps, so that compiled caches stay good."""
        for name in COPIED:
            source, target = REPO / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            else:
                shutil.copy2(source, target)
        return cls(root)

    def copy(self, root: Path) -> Project:
        """All of it, with its history, to change and run again."""
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)

    def command(self, *args: str, cores: int = 2) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "--cores", str(cores), *args]

    def environment(self) -> dict[str, str]:
        """That of a user: no PYTHONPATH into the repository."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
        return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"}

    def start(self, *args: str, cores: int = 2) -> subprocess.Popen[str]:
        """Start snakemake in a process group of its own."""
        return subprocess.Popen(
            self.command(*args, cores=cores),
            cwd=self.root,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *args: str, cores: int = 2, expect: int = 0) -> str:
        """Run snakemake to its end and give what it printed; its exit status must be ``expect``."""
        process = self.start(*args, cores=cores)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == expect, output
        return output

    def planned(self, *args: str) -> dict[str, int]:
        """Jobs per rule that a dry run would run, without ``all``."""
        output = self.run("-n", *args)
        stats = re.search(r"^job +count\n-+ +-+\n((?:\w+ +\d+\n)+)", output, re.MULTILINE)
        if stats is None:
            assert "Nothing to be done" in output, output
            return {}
        counts = {line.split()[0]: int(line.split()[1]) for line in stats[1].splitlines()}
        return {rule: n for rule, n in counts.items() if rule not in ("all", "total")}

    def write_dataset(self, name: str, **values: Any) -> None:
        (self.root / "config" / "datasets" / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def edit_config(self, change: dict[str, Any]) -> None:
        """Replace keys of ``config/config.yaml``; a nested map is merged."""
        path = self.root / "config" / "config.yaml"
        path.write_text(yaml.safe_dump(_merged(yaml.safe_load(path.read_text()), change), sort_keys=False))

    def results(self, dataset: str) -> Path:
        return self.root / "results" / dataset

    def manifest(self, dataset: str, export: str) -> dict[str, Any]:
        return json.loads((self.results(dataset) / export / "manifest.json").read_text())


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = {
        k: _merged(old[k], v) if isinstance(v, dict) and isinstance(old.get(k), dict) else v for k, v in new.items()
    }
    return old | both


def digests(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """sha256 of every file below a folder, by relative name; names that match a pattern of ``without`` left out."""
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
        if not any(re.search(pattern, name) for pattern in without)
    }
