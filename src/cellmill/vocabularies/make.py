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
from cellmill.vocabularies.check import JUNK, SPECIAL_TOKEN, kinds, load_tokens
from cellmill.vocabularies.genes import read_genes
from cellmill.vocabularies.grow import grown
from cellmill.vocabularies.names import Names
from cellmill.vocabularies.spec import SPECIAL, BuildRules, GrowRules

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
    Sources of Ensembl ids beside sources of symbols are a warning: the same gene may have two tokens.

    Raises:
        CellmillError: by ``rules``; a source twice, or without numbers of cells where ``min_cells`` asks for them.
            Nothing was written.
    """
    from cellmill.genes.identifiers import MOSTLY, ensembl_share

    files.refuse_existing(out, force=force)
    old = {} if extends is None else load_tokens(extends)
    special = list(SPECIAL if extends is None else ()) if rules.special is None else rules.special
    names = Names(rules, [*old, *special])
    read = [] if extends is None else [_input(extends, tokens=len(old))]
    shares = [ensembl_share(genes)] if (genes := [t for t in old if not SPECIAL_TOKEN.fullmatch(t)]) else []
    for i, path in enumerate(sources):
        if path in sources[:i]:
            raise CellmillError(path, "stands there twice.", "Name every source once.")
        found = read_genes(path, column=column)
        if rules.min_cells and found.cells is None:
            fix = "Give genes/genes.parquet of a dataset, or leave min_cells out."
            raise CellmillError(path, f"does not say how many cells have a gene (min_cells: {rules.min_cells}).", fix)
        new = names.add(found.names, cells=found.cells, where=path)
        shares.append(ensembl_share(found.names))
        digest = sha256("\n".join(found.names).encode()).hexdigest()
        ensembl = round(shares[-1] * len(found.names))
        read.append(_input(found.path, names=len(found.names), ensembl_ids=ensembl, new=new, names_sha256=digest))
    if min(shares) < 1 - MOSTLY and max(shares) > MOSTLY:
        log.warning("%s: Ensembl ids and symbols come together; the same gene may have two tokens.", out)
    chosen = [token for token, cells in names.new.items() if cells >= rules.min_cells]
    in_order = sorted(chosen) if rules.order == "lexicographic" else chosen
    facts = {"made_by": made_by, "inputs": read, "counts": {"below_min_cells": len(names.new) - len(chosen)}}
    return _grow(out, old, [*special, *in_order], rules, facts, names, force=force)


def merge_vocabularies(
    paths: Sequence[File], *, out: File, rules: GrowRules, made_by: str, force: bool = False
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
        tokens = {token: number for token, number in other.items() if not JUNK.fullmatch(token)}
        moved = [token for token, number in tokens.items() if ids.setdefault(token, number) != number]
        new = names.add(tokens, where=path)
        read.append(_input(path, tokens=len(other), new=new, conflicts=len(moved)))
        if moved:
            log.warning("%s: %d tokens have another id here (%s, …): the first wins.", path, len(moved), moved[0])
    facts = {"made_by": made_by, "inputs": read, "counts": {}}
    return _grow(out, first, list(names.new), rules, facts, names, force=force)


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


def _grow(
    out: File,
    old: dict[str, int],
    new: list[str],
    rules: GrowRules,
    facts: dict[str, Any],
    names: Names,
    *,
    force: bool,
) -> dict[str, Any]:
    """Write ``old`` with the ``new`` tokens, and give the provenance: ``facts``, the rules and all counts."""
    tokens = grown(old, new, pad_to_multiple_of=rules.pad_to_multiple_of, reuse_junk=rules.reuse_junk)
    asked = rules.model_dump(mode="json", exclude={"kind", "datasets", "extends"})
    clashes = {f"by_{rule}": number for rule, number in sorted(names.clashes.items())}
    facts |= {"rules": asked, "counts": kinds(tokens) | clashes | facts["counts"]}
    files.write(out, tokens, facts, force=force)
    return facts


def _input(path: File, **facts: Any) -> dict[str, Any]:
    """What is said of an input. Files of counts may be huge: of these, only the names are hashed."""
    file = Path(path)
    hashed = file.is_file() and file.suffix != ".h5ad" and not file.name.endswith(".zarr.zip")
    return {"path": file.as_posix(), "sha256": sha256_of(file) if hashed else None, **facts}
