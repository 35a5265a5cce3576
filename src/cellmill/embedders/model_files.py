"""The files of a model: in a folder of the user's, or below ``resources/`` by the ledger."""

from __future__ import annotations

from pathlib import Path

from cellmill.sources.ledger import Ledger

CONFIG = "config.json"
SCGPT = ("args.json", "vocab.json", "best_model.pt")
"""Files of an scGPT model."""
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""Patterns of weights, the preferred first; each may have an index beside it."""


def weights_of(folder: Path) -> list[Path]:
    """The weights that are read, with their index where they are in pieces: safetensors where there are any."""
    for pattern in WEIGHTS:
        found = sorted(folder.glob(pattern))
        if found:
            return [*found, *sorted(folder.glob(f"{pattern}.index.json"))]
    return []


def files_of(folder: Path, kind: str) -> list[Path]:
    """Every file of a model in a folder, for an embedder of this kind."""
    return [folder / name for name in SCGPT] if kind == "scgpt" else [folder / CONFIG, *weights_of(folder)]


def ledger_files(model: str, ledger: Ledger) -> list[str]:
    """Files of the ledger that are this model, as paths."""
    folder = Path(model).as_posix()
    return [path for name in ledger.names if Path(path := f"resources/{name}").parent.as_posix() == folder]


def model_files(model: str, ledger: Ledger, base: Path = Path(), *, kind: str) -> list[str]:
    """Every file that the vectors depend on; those of the ledger need not be there yet."""
    known = ledger_files(model, ledger)
    return known or [Path(model, p.name).as_posix() for p in files_of(base / model, kind)]


def revision_of(model: str, ledger: Ledger) -> str | None:
    """The version that the ledger gives for the model; None where it is a folder of the user's."""
    known = ledger_files(model, ledger)
    return ledger.entry(known[0].removeprefix("resources/")).version if known else None


def model_problem(model: str, ledger: Ledger, base: Path, *, kind: str) -> str | None:
    """What keeps a folder from being a model, in a sentence."""
    if ledger_files(model, ledger):
        return None
    folder = base / model
    if kind == "scgpt":
        absent = [name for name in SCGPT if not (folder / name).is_file()]
        return f"no {', '.join(absent)} in '{model}'. Name a folder with an scGPT model." if absent else None
    if not (folder / CONFIG).is_file():
        return f"no {CONFIG} in '{model}'. Name a folder with a model, relative to where snakemake runs."
    if not weights_of(folder):
        return f"no weights in '{model}'. There must be {' or '.join(WEIGHTS)}, as `save_pretrained` writes them."
    return None
