"""The ledger of cells: where every cell of the dataset went, and whether anything stands in two splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.contracts import ledger as contract
from cellmill.contracts import obs as obs_files
from cellmill.contracts import quality as quality_files
from cellmill.contracts import splits as split_files
from cellmill.contracts.doublets import DoubletScores
from cellmill.errors import CellmillError
from cellmill.quality.spec import CellRules, Doublets
from cellmill.quality.thresholds import KEPT

NAMED_KEYS = 5
"""Keys without a row in a joined table that the ledger names."""


def write_ledger(
    cells: Sequence[str | PathLike[str]],
    *,
    labels: Sequence[str | PathLike[str]],
    doublets: Sequence[str | PathLike[str]] = (),
    duplicates: str | PathLike[str],
    rules: CellRules,
    out: str | PathLike[str],
    annotations: Sequence[str | PathLike[str]] = (),
) -> None:
    """Count the cells of all parts by part, batch, outcome and split, and look for leaks.

    A leak is a group in two splits, or twins (cells of equal content) in two splits.

    Memory: one part, a row per group, and 32 bytes per cell that has twins.

    Raises:
        CellmillError: a group in two splits; twins in two splits, unless the rule is ``keep``.
    """
    rows: list[tuple[str, str, str, str | None, int]] = []
    sides: dict[str, str] = {}
    lost: Counter[str] = Counter()
    draws: list[dict[str, Any]] = []
    twins = []
    names = list(rules.split.fractions)
    for number, (path, labels_path) in enumerate(zip(cells, labels, strict=True)):
        table, facts = quality_files.read_cells(path)
        part = facts["part"]
        lost.update({reason: gone["counts"] for reason, gone in facts.get("genes_dropped", {}).items()})
        draws += [facts["subset"]] if "subset" in facts else []
        counted = table.group_by(["batch", "outcome", "split"]).aggregate([([], "count_all")]).to_pylist()
        rows += [(part, r["batch"], r["outcome"], r["split"], r["count_all"]) for r in counted]
        if rules.split.columns:
            groups, _ = quality_files.read_labels(labels_path, columns=["group"])
            _refuse_split_groups(table.append_column("group", groups["group"]), sides, path)
        mine, _ = split_files.read_duplicates(duplicates, part)
        twins.append(_kept_twins(mine, table, number, names))
    across = _contents_across(np.concatenate(twins))
    if len(across) and rules.quality.duplicates.rule != "keep":
        _refuse_leaks(across, cells, names)
    said = split_files.read_duplicates(duplicates, "")[1]
    facts = {
        "duplicates": {k: said[k] for k in ("contents", "cells", "min_counts")},
        "duplicates_across_splits": len(np.unique(across[["content_1", "content_2"]])),
        "groups": len(sides) if rules.split.columns else None,
        "groups_across_splits": 0,
        "gene_counts_dropped": dict(sorted(lost.items())),
        **_draw(draws),
        **_annotated(annotations),
        **({"doublets": _doublets(doublets, rules.quality.doublets)} if rules.quality.doublets is not None else {}),
    }
    rows.sort(key=lambda row: (row[0], row[1], row[2], row[3] or ""))
    arrays = [pa.array([r[i] for r in rows], f.type) for i, f in enumerate(contract.LEDGER_SCHEMA)]
    contract.write_ledger(out, pa.Table.from_arrays(arrays, schema=contract.LEDGER_SCHEMA), facts)


def _draw(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``{"subset": …}``, from what each part says of its draw; empty where the dataset is whole.

    ``found`` cells = ``dropped`` by filters + ``not_drawn`` + ``drawn``, which are the raw cells.
    """
    if not parts:
        return {}
    dropped: Counter[str] = Counter()
    for said in parts:
        dropped.update(said["dropped"])
    found, drawn = (sum(said[key] for said in parts) for key in ("found", "drawn"))
    counted = {"found": found, "drawn": drawn, "not_drawn": found - dropped.total() - drawn}
    rules = {key: parts[0]["rules"][key] for key in ("stratify", "proportions", "seed")}
    return {"subset": {**counted, "dropped": dict(sorted(dropped.items())), **rules}}


def _annotated(files: Sequence[str | PathLike[str]]) -> dict[str, Any]:
    """``{"annotations": …}``: cells that lost a word for a missing value, by column, and per join what was matched.

    Cells are those that were found; empty where nothing is changed or joined.
    """
    if not files:
        return {}
    parts = [obs_files.read_facts(path) for path in files]
    missing: Counter[str] = Counter()
    for said in parts:
        missing.update(said["missing"])
    joins = []
    for same in zip(*(said["joins"] for said in parts), strict=True):
        counted = {k: sum(said[k] for said in same) for k in ("matched", "unmatched", "without_key")}
        named = sorted({key for said in same for key in said["examples"]})[:NAMED_KEYS]
        joins.append({"table": same[0]["table"], "by": same[0]["by"], **counted, "examples": named})
    return {"annotations": {"missing": dict(sorted(missing.items())), "joins": joins}}


def _doublets(files: Sequence[str | PathLike[str]], rules: Doublets) -> dict[str, Any]:
    """Batches by what became of them, and the cells that were scored and predicted."""
    batches = DoubletScores(files).batches.values()
    return {
        "rule": rules.rule,
        "batches": dict(sorted(Counter(b["outcome"] for b in batches).items())),
        "scored": sum(b.get("scored", 0) for b in batches),
        "predicted": sum(b.get("predicted", 0) for b in batches),
    }


def account(ledger: str | PathLike[str]) -> dict[str, Any]:
    """The ledger over all parts and batches: raw = kept + dropped by reason, and the kept by split."""
    table, _ = contract.read_ledger(ledger)
    outcomes: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for row in table.to_pylist():
        outcomes[row["outcome"]] += row["cells"]
        if row["split"] is not None:
            splits[row["split"]] += row["cells"]
    kept = outcomes.pop(KEPT, 0)
    return {
        "raw": kept + sum(outcomes.values()),
        "kept": kept,
        "dropped": dict(sorted(outcomes.items())),
        "splits": dict(sorted(splits.items())),
    }


def account_by_batch(ledger: str | PathLike[str]) -> list[dict[str, Any]]:
    """Per batch: ``batch``, ``raw``, ``dropped`` and its most frequent ``reason``; the largest dropped share first."""
    table, _ = contract.read_ledger(ledger)
    found: dict[str, Counter[str]] = {}
    for row in table.to_pylist():
        found.setdefault(row["batch"], Counter())[row["outcome"]] += row["cells"]
    rows = []
    for batch, outcomes in found.items():
        raw = outcomes.total()
        reasons = {reason: n for reason, n in outcomes.items() if reason != KEPT}
        reason = min(reasons, key=lambda r: (-reasons[r], r), default=None)
        rows.append({"batch": batch, "raw": raw, "dropped": sum(reasons.values()), "reason": reason})
    return sorted(rows, key=lambda r: (-r["dropped"] / r["raw"], -r["raw"], r["batch"]))


def _refuse_split_groups(table: pa.Table, sides: dict[str, str], where: object) -> None:
    """No group may stand in two splits; it would be a mistake of cellmill's."""
    pairs = table.filter(pc.is_valid(table["split"])).group_by(["group", "split"]).aggregate([]).to_pylist()
    for pair in pairs:
        if sides.setdefault(pair["group"], pair["split"]) != pair["split"]:
            raise CellmillError(
                where,
                f"the group '{pair['group']}' stands in {sides[pair['group']]} and in {pair['split']}.",
                "Delete processed/ of this dataset and run snakemake again.",
            )


_TWIN = np.dtype([("content_1", "u8"), ("content_2", "u8"), ("split", "i4"), ("part", "i4"), ("row", "i8")])


def _kept_twins(mine: pa.Table, cells: pa.Table, number: int, names: list[str]) -> np.ndarray:
    """The kept cells of a part that have twins, as records."""
    splits = pc.index_in(cells["split"].take(mine["row"]), value_set=pa.array(names, pa.string()))
    codes = pc.fill_null(splits, -1).to_numpy()
    found = np.empty(len(codes), _TWIN)
    for column in ("content_1", "content_2", "row"):
        found[column] = mine[column].to_numpy()
    found["split"], found["part"] = codes, number
    return found[codes >= 0]


def _contents_across(twins: np.ndarray) -> np.ndarray:
    """The records of contents that stand in several splits, twins together."""
    twins = twins[np.lexsort((twins["row"], twins["part"], twins["content_2"], twins["content_1"]))]
    _, at, inverse = np.unique(twins[["content_1", "content_2"]], return_index=True, return_inverse=True)
    several = np.zeros(len(at), bool)
    several[inverse[twins["split"] != twins["split"][at][inverse]]] = True
    across: np.ndarray = twins[several[inverse]]
    return across


def _refuse_leaks(across: np.ndarray, cells: Sequence[str | PathLike[str]], names: list[str]) -> None:
    one = across[0]
    other = next(t for t in across[1:] if t["split"] != one["split"])
    files = [(cells[t["part"]], int(t["row"])) for t in (one, other)]
    ids = [quality_files.read_cells(path, columns=["cell_id"])[0]["cell_id"][row] for path, row in files]
    contents = len(np.unique(across[["content_1", "content_2"]]))
    raise CellmillError(
        cells[one["part"]],
        f"{contents} cells stand in several splits, with the same counts in every gene: "
        f"'{ids[0]}' in {names[one['split']]}, '{ids[1]}' of {cells[other['part']]} in {names[other['split']]}.",
        "Under 'quality:', say 'duplicates: {rule: drop}' to keep one of each, or '{rule: keep}' to accept it.",
    )
