"""The files of a reference PCA: one of the user's, that of another dataset, or below ``resources/`` by the ledger.

Light on purpose: it is read whenever a DAG is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellmill.embedders.model_files import ledger_files

if TYPE_CHECKING:
    from collections.abc import Collection

    from cellmill.sources.ledger import Ledger

ARRAYS = ("components.npy", "mean.npy", "target_sum.npy")
"""Of a folder; the last may be missing."""
LISTS = ("genes.txt", "genes.tsv", "genes.csv")
FIX = "docs/formats.md, pca, says what it holds."


def reference_files(reference: str, ledger: Ledger, base: Path) -> list[str]:
    """Every file that the vectors depend on; those of the ledger and of another dataset need not be there yet."""
    if reference in ledger.names:
        return [ledger.path_of(reference)]
    if found := ledger_files(f"resources/{reference}", ledger) or ledger_files(reference, ledger):
        return found
    folder = base / reference
    if not folder.is_dir():
        return [reference]
    return [Path(reference, name).as_posix() for name in (*ARRAYS, *LISTS) if (folder / name).is_file()]


def reference_problem(reference: str, ledger: Ledger, base: Path, fitted: Collection[str]) -> str | None:
    """What keeps it from being one, in a sentence; ``fitted`` are the files of PCAs that this run can fit."""
    files = reference_files(reference, ledger, base)
    if reference in fitted or (files and files[0].startswith("resources/") and files[0] != reference):
        return None
    if (base / reference).is_dir():
        names = {Path(file).name for file in files}
        missing = [name for name in ARRAYS[:2] if name not in names]
        missing += [] if names & set(LISTS) else [" or ".join(LISTS)]
        return f"no {' and no '.join(missing)} in '{reference}'. {FIX}" if missing else None
    if not (base / reference).is_file():
        return f"no file '{reference}', and no PCA that this run fits. {FIX}"
    return None if reference.endswith(".npz") else f"'{reference}' is no .npz. {FIX}"
