"""Files in, a vocabulary and its provenance out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

from cellmill.contracts import flat_vocabulary as files
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.vocabularies.check import JUNK, kinds, load_tokens
from cellmill.vocabularies.genes import read_genes
from cellmill.vocabularies.grow import grown
from cellmill.vocabularies.names import Names
from cellmill.vocabularies.spec import SPECIAL, BuildRules

File = str | PathLike[str]
log = logging.getLogger("cellmill")


def make_vocabulary(
    sources: Sequence[File],
    *,
    out: File,
    rules: BuildRules,
    made_by: str,
    extends: File | None = None,
    column: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """A vocabulary over the genes of all sources: a new one, or ``extends`` with new tokens at its end.

    Gives the provenance. Where no rule was needed, lexicographic vocabularies are the same for any order of sources.

    Raises:
        CellmillError: by ``rules``; a source without numbers of cells where ``min_cells`` asks for them; nothing was
            written.
    """
    from cellmill.genes.identifiers import ENSEMBL

    files.refuse_existing(out, force=force)
    old = {} if extends is None else load_tokens(extends)
    special = list(SPECIAL if extends is None else ()) if rules.special is None else rules.special
    names = Names(rules, [*old, *special])
    read = [] if extends is None else [_input(extends, tokens=len(old))]
    for path in sources:
        genes = read_genes(path, column=column)
        if rules.min_cells and genes.cells is None:
            fix = "Give genes/genes.parquet of a dataset, or leave min_cells out."
            raise CellmillError(path, f"does not say how many cells have a gene (min_cells: {rules.min_cells}).", fix)
        new = names.add(genes.names, cells=genes.cells, where=path)
        ensembl = sum(ENSEMBL.match(name) is not None for name in genes.names)
        digest = sha256("\n".join(genes.names).encode()).hexdigest()
        read.append(_input(genes.path, names=len(genes.names), ensembl_ids=ensembl, new=new, names_sha256=digest))
    chosen = [token for token, cells in names.new.items() if cells >= rules.min_cells]
    in_order = sorted(chosen) if rules.order == "lexicographic" else chosen
    counts = {"below_min_cells": len(names.new) - len(chosen)}
    return _write(out, old, [*special, *in_order], names, rules, read, made_by, force=force, counts=counts)


def merge_vocabularies(
    paths: Sequence[File], *, out: File, rules: BuildRules, made_by: str, force: bool = False
) -> dict[str, Any]:
    """The first vocabulary, with the tokens of the others at its end, each in the order of its ids.

    The junk of the others is left out. A token with another id there is a conflict, counted and logged: the first wins.
    """
    files.refuse_existing(out, force=force)
    first = load_tokens(paths[0])
    names, ids = Names(rules, first), dict(first)
    read = [_input(paths[0], tokens=len(first))]
    for path in paths[1:]:
        other = load_tokens(path)
        moved = [token for token, number in other.items() if ids.setdefault(token, number) != number]
        new = names.add([t for t in other if not JUNK.fullmatch(t)], where=path)
        read.append(_input(path, tokens=len(other), new=new, conflicts=len(moved)))
        if moved:
            log.warning("%s: %d tokens have another id here (%s, …): the first wins.", path, len(moved), moved[0])
    return _write(out, first, list(names.new), names, rules, read, made_by, force=force, counts={})


def convert(path: File, *, out: File, made_by: str, force: bool = False) -> dict[str, Any]:
    """Write a dictionary in another format: a vocabulary by rising id, another one (medians, names) as it is."""
    files.refuse_existing(out, force=force)
    values = files.read(path)
    plain = {type(value) for value in values.values()} in ({str}, {float})
    values = values if plain else load_tokens(path)
    counts = {"entries": len(values)} if plain else kinds(values)
    facts = {"made_by": made_by, "inputs": [_input(path)], "counts": counts}
    files.write(out, values, facts, force=force)
    return facts


def _write(
    out: File,
    old: dict[str, int],
    new: list[str],
    names: Names,
    rules: BuildRules,
    read: list[dict[str, Any]],
    made_by: str,
    *,
    force: bool,
    counts: dict[str, int],
) -> dict[str, Any]:
    tokens = grown(old, new, pad_to_multiple_of=rules.pad_to_multiple_of, reuse_junk=rules.reuse_junk)
    asked = rules.model_dump(mode="json", include=set(BuildRules.model_fields))
    clashes = {f"by_{rule}": number for rule, number in sorted(names.clashes.items())}
    facts = {"made_by": made_by, "inputs": read, "rules": asked, "counts": kinds(tokens) | clashes | counts}
    files.write(out, tokens, facts, force=force)
    return facts


def _input(path: File, **facts: Any) -> dict[str, Any]:
    """What is said of an input. Files of counts may be huge: of these, only the names are hashed."""
    file = Path(path)
    hashed = file.is_file() and file.suffix != ".h5ad" and not file.name.endswith(".zarr.zip")
    return {"path": file.as_posix(), "sha256": sha256_of(file) if hashed else None, **facts}
