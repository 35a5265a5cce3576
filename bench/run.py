"""Measurements beside the peers, each in a process of its own: ``python bench/run.py [NAME …]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
MEASUREMENTS = {
    "read": ("ours, 1 thread", "ours, 2 threads", "anndata backed"),
    "write": ("ours, 1 thread", "ours, 2 threads", "anndata gzip"),
    "quality": ("reading alone, 2 threads", "ours, 2 threads", "ours, workflow", "scanpy"),
    "scale": (),
    "plan": (),
}
"""Name: who is measured, the last is the peer; `scale` and `plan` have none, and say what each step takes."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MEASUREMENTS)}; default: all")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=30_000, help="of plan: samples of about 8,000 cells")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--everything", action="store_true", help="of scale: tokens, embeddings, exports and report, too"
    )
    asked = parser.parse_args()
    unknown = set(asked.names) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; " + _versions())
    for name in asked.names or MEASUREMENTS:
        if name == "scale":
            _scale(asked.cells, everything=asked.everything)
        elif name == "plan":
            _plan(asked.samples, everything=asked.everything)
        else:
            _table(name, asked.cells, asked.runs)
    return 0


def _scale(cells: int, *, everything: bool) -> None:
    from atlas import parts
    from scale import table

    paths = parts(HERE / "data" / f"atlas_{cells}", cells=cells)
    size = sum(path.stat().st_size for path in paths) / 1e6
    print(f"\nscale: {cells:,} cells, {size:,.0f} MB gzip h5ad in {len(paths)} files; one run")
    print(table(paths, cells=cells, everything=everything))


def _plan(samples: int, *, everything: bool) -> None:
    from plan import table

    print(f"\nplan: {samples:,} samples; one run")
    print(table(samples, everything=everything))


def _versions() -> str:
    return ", ".join(f"{p} {version(p)}" for p in ("anndata", "h5py", "scanpy", "numpy", "isal", "deflate"))


def _table(name: str, cells: int, runs: int) -> None:
    from atlas import atlas

    who, path = MEASUREMENTS[name], atlas(HERE / "data" / f"atlas_{cells}.h5ad", cells=cells)
    size = path.stat().st_size / 1e6
    print(f"\n{name}: {cells:,} cells, {size:,.0f} MB gzip h5ad; the middle of {runs} runs, in turn")
    found: dict[str, list[tuple[float, float]]] = {w: [] for w in who}
    for _ in range(runs):
        for w in who:
            done = subprocess.run(
                [sys.executable, str(HERE / "measure.py"), name, w, str(path)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            said = json.loads(done.stdout.splitlines()[-1])
            found[w].append((said["seconds"], said["mb"]))
    seconds = {w: statistics.median(s for s, _ in f) for w, f in found.items()}
    peak = {w: statistics.median(m for _, m in f) for w, f in found.items()}
    print(f"{'':<26}{'seconds':>10}{'cells/s':>12}{'peak MB':>10}{'times the peer':>16}")
    for w in who:
        ratio = "" if w == who[-1] else f"{seconds[who[-1]] / seconds[w]:.2f}"
        print(f"{w:<26}{seconds[w]:>10.2f}{cells / seconds[w]:>12,.0f}{peak[w]:>10,.0f}{ratio:>16}")


if __name__ == "__main__":
    sys.exit(main())
