"""What a vocabulary is made of, and by which rules."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from cellmill.spec import Name, PositiveInt, Spec

SPECIAL = ("<pad>", "<cls>", "<eoc>")
"""Special tokens where no other are asked for, as of Tahoe-x1; they come first."""


def _no_junk(token: str) -> str:
    if token.startswith("<junk"):
        raise ValueError(f"'{token}' is junk, which pad_to_multiple_of asks for")
    return token


class NameRules(Spec):
    """What becomes of gene names that are not plainly one gene each."""

    versions: Literal["error", "strip", "keep"] = "error"
    """Ensembl ids with a version (`ENSG00000000003.15`): an `error`; `strip` it; or `keep` each as a token."""
    case: Literal["error", "first", "keep"] = "error"
    """Names that differ only in case: an `error`; the spelling found `first` for all; or `keep` each as a token."""
    duplicates: Literal["error", "first"] = "error"
    """A name that stands twice in one source: an `error`, or the `first` counts."""


class GrowRules(NameRules):
    """How a vocabulary grows by new tokens."""

    pad_to_multiple_of: PositiveInt = 1
    """Junk tokens (`<junk0>`, …) fill the vocabulary up to a multiple of this, such as 64."""
    reuse_junk: bool = False
    """`true`: new genes first take the ids of junk tokens, which no cell ever had; `false`: junk tokens keep theirs."""


class BuildRules(GrowRules):
    """How gene names become a vocabulary."""

    special: list[Annotated[str, Field(pattern=r"^(<[^<>\s]+>|\[[A-Z]+\])$"), AfterValidator(_no_junk)]] | None = None
    """Special tokens, which come first. `null`: `<pad>`, `<cls>`, `<eoc>`; where one is extended, its own."""
    order: Literal["lexicographic", "as_found"] = "lexicographic"
    """Order of the new genes: `lexicographic`, as Tahoe-x1's, or `as_found`, source after source."""
    min_cells: Annotated[int, Field(ge=0)] = 0
    """Fewest training cells with a count of a new gene, over all sources; 0: every gene of the gene spaces."""


class BuildVocabulary(BuildRules):
    """A vocabulary over the genes of one or more datasets: `results/vocabularies/<name>.json`."""

    kind: Literal["build"] = "build"
    datasets: Annotated[list[Name], Field(min_length=1)]
    """Datasets whose genes it has."""
    extends: str | None = None
    """A vocabulary whose ids all stay, with new genes after them: a name in `resources/ledger.tsv`, another of
    `vocabularies:`, or a path; `null`: none."""


def parse_vocabulary(values: dict[str, Any]) -> BuildVocabulary:
    """The spec of one vocabulary from its plain values."""
    return BuildVocabulary.model_validate(values)
