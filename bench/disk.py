"""What every export of the configuration takes: bytes per stored value, and seconds."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from quality import REPO, workflow


def table(paths: list[Path], *, cells: int) -> str:
    """A line per export: bytes of the whole folder, per stored value and per cell, seconds, cells/s and peak memory.

    Stored values are those of the kept cells, whatever the export makes of them.
    """
    asked = yaml.safe_load((REPO / "config" / "config.yaml").read_text())["exports"]
    exports = [f"{format_}/{name}" for format_, names in asked.items() for name in names]
    found: dict[str, tuple[int, int, float, float]] = {}
    values = 0

    def look(folder: Path) -> None:
        nonlocal values
        for path in exports:
            said = json.loads((folder / "results" / "atlas" / path / "manifest.json").read_text())
            format_, name = path.split("/")
            log = folder / "benchmarks" / f"export_{format_}" / f"atlas.{name}.jsonl"
            job = json.loads(log.read_text().splitlines()[-1])
            size = sum(file["bytes"] for file in said["files"].values())
            found[path] = (sum(said["splits"].values()), size, float(job["s"]), float(job["max_rss"] or 0))
            if path.startswith("packed/"):
                values = sum(split["values"] for split in said["facts"]["splits"].values())

    targets = [f"results/atlas/{path}/manifest.json" for path in exports]
    workflow(paths, targets=targets, exports=exports, columns={"label": "cell_type"}, then=look)
    lines = [f"{'':<24}{'MB':>10}{'bytes/value':>13}{'bytes/cell':>12}{'seconds':>10}{'cells/s':>12}{'peak MB':>10}"]
    for path, (kept, size, seconds, peak) in found.items():
        lines.append(
            f"{path:<24}{size / 1e6:>10,.1f}{size / values:>13.2f}{size / kept:>12,.0f}"
            f"{seconds:>10.1f}{kept / seconds:>12,.0f}{peak:>10,.0f}"
        )
    return "\n".join(lines)
