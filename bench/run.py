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
_RUNS = "the middle of {} runs, in turn"
sys.path.insert(0, str(HERE))
MEASUREMENTS = {
    "read": ("ours, 1 thread", "ours, 2 threads", "anndata backed"),
    "write": ("ours, 1 thread", "ours, 2 threads", "anndata gzip"),
    "quality": ("reading alone, 2 threads", "ours, 2 threads", "ours, workflow", "scanpy"),
    "tokenize": (),
    "embed": (),
    "convert": ("ours, 1 thread", "ours, 2 threads", "convert_h5ad_to_scdl"),
    "open": ("ours", "bionemo-scdl"),
    "mds": (
        "ours, tensors, 2 threads",
        "ours, json, 2 threads",
        "ours, ndarray, 2 threads",
        "ours, tensors, 1 thread",
        "MDSWriter, tensors",
    ),
    "hf": ("ours", "datasets"),
    "scale": (),
    "load": (),
    "packed": (),
    "disk": (),
    "memory": (),
    "plan": (),
}
"""Name: who is measured, the last is the peer; those without one have tables of their own."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MEASUREMENTS)}; default: all")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=30_000, help="of plan: samples of about 8,000 cells")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--everything", action="store_true", help="of scale: every rule that needs no network and no GPU"
    )
    parser.add_argument("--tables", nargs="+", help="of load: such as memory, or 'random batches'; default: all")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; " + _versions())
    for name in asked.names or MEASUREMENTS:
        if name == "scale":
            _scale(asked.cells, everything=asked.everything)
        elif name == "tokenize":
            _tokenize(asked.cells, asked.runs)
        elif name == "embed":
            _embed(asked.cells, asked.runs)
        elif name == "load":
            _load(asked.cells, asked.runs, asked.tables)
        elif name == "packed":
            _packed(asked.cells, asked.runs)
        elif name == "disk":
            _disk(asked.cells)
        elif name == "memory":
            _memory(asked.cells)
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
    print(table(paths, cells=cells, all_rules=everything))


def _tokenize(cells: int, runs: int) -> None:
    import tokens
    from atlas import parts

    out = HERE / "data" / f"processed_{cells}.h5ad"
    tokens.prepare(parts(HERE / "data" / f"atlas_{cells}", cells=cells), out)
    print(f"\ntokenize: {cells:,} cells, {out.stat().st_size / 1e6:,.0f} MB processed h5ad; {_RUNS.format(runs)}")
    found: dict[str, list[dict[str, float]]] = {who: [] for who in tokens.WHO}
    for _ in range(runs):
        for who in tokens.WHO:
            found[who].append(_measured("tokenize", who, out))
    print(tokens.table(found))


def _embed(cells: int, runs: int) -> None:
    import embeddings

    device = embeddings.device()
    cells, model = min(cells, embeddings.CELLS[device]), embeddings.MODELS[device]
    path = embeddings.prepare(HERE / "data", cells)
    size = f"{model['num_hidden_layers']} layers of {model['hidden_size']}"
    print(f"\nembed: {cells:,} cells, {size}, random weights, on {device}; {_RUNS.format(runs)}")
    found: dict[str, list[dict[str, float]]] = {who: [] for who in embeddings.contenders()}
    for _ in range(runs):
        for who in found:
            found[who].append(_measured("embed", who, path))
    print(embeddings.table(found, cells))


def _load(cells: int, runs: int, tables: list[str] | None) -> None:
    from atlas import parts
    from load import LIMIT, TABLES, table

    if unknown := set(tables or ()) - set(TABLES):
        raise SystemExit(f"no table {', '.join(sorted(unknown))}; there are {', '.join(map(repr, TABLES))}")

    def measure(*arguments: object) -> dict[str, float] | None:
        command = [sys.executable, str(HERE / "load.py"), *map(str, arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise SystemExit(done.stderr)
        said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return said

    print(f"\nload: {cells:,} cells; the middle of {runs} runs, in turn")
    paths = parts(HERE / "data" / f"atlas_{cells}", cells=cells)
    for line in table(paths, cells=cells, runs=runs, tables=tables or TABLES, measure=measure):
        print(line, flush=True)


def _packed(cells: int, runs: int) -> None:
    from archives import KINDS
    from atlas import atlas

    path = atlas(HERE / "data" / f"atlas_{cells}.h5ad", cells=cells)
    print(f"\npacked: {cells:,} cells, one thread, warm; the best of {runs} runs, in turn")
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(runs):
        for kind in KINDS:
            command = [sys.executable, str(HERE / "archives.py"), kind, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'':<26}{'bytes/value':>13}{'cells/s in order':>18}{'cells/s at random':>19}")
    for kind, said in found.items():
        fastest = {name: max(one[name] for one in said) for name in ("in order", "random")}
        size = said[0]["bytes_per_value"]
        print(f"{kind:<26}{size:>13.2f}{fastest['in order']:>18,.0f}{fastest['random']:>19,.0f}")


def _disk(cells: int) -> None:
    from atlas import parts
    from disk import table

    paths = parts(HERE / "data" / f"atlas_{cells}", cells=cells)
    print(f"\ndisk: {cells:,} cells in {len(paths)} files, every export of config/config.yaml; one run")
    print(table(paths, cells=cells))


def _memory(cells: int) -> None:
    from atlas import atlas
    from memory import table

    sizes = (cells // 10, cells)
    print("\nmemory: each atlas in one file and one part; one run")
    print(table({n: atlas(HERE / "data" / f"atlas_{n}.h5ad", cells=n) for n in sizes}))


def _plan(samples: int, *, everything: bool) -> None:
    from plan import table

    print(f"\nplan: {samples:,} samples; one run")
    print(table(samples, everything=everything))


def _versions() -> str:
    return ", ".join(f"{p} {version(p)}" for p in ("anndata", "h5py", "scanpy", "numpy", "isal", "deflate"))


def _measured(name: str, who: str, path: Path) -> dict[str, float]:
    """What a process of its own says of one run."""
    command = [sys.executable, str(HERE / "measure.py"), name, who, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


def _table(name: str, cells: int, runs: int) -> None:
    from atlas import atlas

    who, path = MEASUREMENTS[name], atlas(HERE / "data" / f"atlas_{cells}.h5ad", cells=cells)
    size = path.stat().st_size / 1e6
    print(f"\n{name}: {cells:,} cells, {size:,.0f} MB gzip h5ad; {_RUNS.format(runs)}")
    found: dict[str, list[tuple[float, float]]] = {w: [] for w in who}
    for _ in range(runs):
        for w in who:
            said = _measured(name, w, path)
            found[w].append((said["seconds"], said["mb"]))
    seconds = {w: statistics.median(s for s, _ in f) for w, f in found.items()}
    peak = {w: statistics.median(m for _, m in f) for w, f in found.items()}
    print(f"{'':<26}{'seconds':>10}{'cells/s':>12}{'peak MB':>10}{'times the peer':>16}")
    for w in who:
        ratio = "" if w == who[-1] else f"{seconds[who[-1]] / seconds[w]:.2f}"
        shown = f"{seconds[w]:>10.2f}" if seconds[w] >= 0.1 else f"{seconds[w]:>10.4f}"
        print(f"{w:<26}{shown}{cells / seconds[w]:>12,.0f}{peak[w]:>10,.0f}{ratio:>16}")


if __name__ == "__main__":
    sys.exit(main())
