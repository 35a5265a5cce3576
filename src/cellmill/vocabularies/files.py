"""Where a vocabulary that the configuration names lies, and what is wrong with such names before anything runs.

Light on purpose: it is read whenever a DAG is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from cellmill.errors import nearest
from cellmill.sources.ledger import LEDGER, Ledger
from cellmill.vocabularies.spec import BuildVocabulary

FOLDER = "vocabularies"
"""The folder of ``results/`` that no dataset is called by."""


def vocabulary_file(name: str, made: Iterable[str]) -> str:
    """The file of a vocabulary as the workflow asks for it.

    ``name``: one of ``made`` (``vocabularies:`` of the configuration), a name of the ledger, or a path.
    """
    if name in made:
        return f"results/{FOLDER}/{name}.json"
    return f"resources/{name}" if name in Ledger(LEDGER).names else name


def vocabulary_problems(name: str, made: Iterable[str], base: Path) -> list[str]:
    """Why ``vocabulary_file`` would name a file that is not there."""
    from cellmill.contracts.flat_vocabulary import READABLE

    file = vocabulary_file(name, made)
    if file != name or (base / name).is_file():
        return []
    known = [*made, *(n for n in Ledger(LEDGER).names if Path(n).suffix in READABLE)]
    return [f"no vocabulary or file '{name}'. {nearest(name, known)}"]


def datasets_of(name: str, vocabularies: Mapping[str, BuildVocabulary]) -> list[str]:
    """The datasets that must be in the run for this vocabulary to be made; none of one that is not made."""
    found: list[str] = []
    seen: set[str] = set()
    step: str | None = name
    while step is not None and step in vocabularies and step not in seen:
        seen.add(step)
        found += vocabularies[step].datasets
        step = vocabularies[step].extends
    return list(dict.fromkeys(found))


def problems(vocabularies: Mapping[str, BuildVocabulary], datasets: Iterable[str], base: Path) -> list[str]:
    """What is wrong with ``vocabularies:``; ``datasets``: all that there are files of."""
    found, known = [], sorted(datasets)
    for name, spec in vocabularies.items():
        where = f"vocabularies.{name}"
        missing = [d for d in spec.datasets if d not in known]
        found += [f"{where}.datasets: no file config/datasets/{d}.yaml. {nearest(d, known)}" for d in missing]
        if len(set(spec.datasets)) < len(spec.datasets):
            found.append(f"{where}.datasets: a dataset stands there twice. Name each once.")
        if spec.extends is not None:
            found += [f"{where}.extends: {p}" for p in vocabulary_problems(spec.extends, vocabularies, base)]
        chain: list[str] = []
        step: str | None = name
        while step is not None and step in vocabularies and step not in chain:
            chain.append(step)
            step = vocabularies[step].extends
        if step == name:
            found.append(f"{where}.extends: in the end it extends itself ({' -> '.join([*chain, name])}).")
    return found
