"""``scbasecount``: whole samples of scBaseCount, the Arc Virtual Cell Atlas's reprocessing of public 10x data."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from cellmill.errors import CellmillError, nearest
from cellmill.sources.obs_rules import MISSING_WORDS
from cellmill.sources.planned import Planned
from cellmill.spec import Column, PositiveInt, Spec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from cellmill.contracts.plan import Member

ROOT = "gs://arc-institute-virtual-cell-atlas/scbasecount"
FEATURE_TYPES = Literal["Gene", "GeneFull", "GeneFull_Ex50pAS", "GeneFull_ExonOverIntron", "Velocyto"]
_MULTI = ("UniqueAndMult-EM", "UniqueAndMult-Uniform")
NOT_OF_CELLS = ("file_path", "obs_count")
"""Columns of the catalogue that say where a sample is and how large, and nothing of its cells."""


class SampleFilter(Spec):
    """Samples by a column of the catalogue: exactly one of `in`, `not_in` and `contains`, whatever the case.

    A sample without a value there passes `not_in` alone.
    """

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    column: Column
    """The column: `tissue`, `disease`, `tech_10x`, `cell_prep`, `perturbation`, `cell_line`, `srx_accession`, …"""
    in_: list[str] | None = Field(default=None, alias="in", min_length=1)
    """The values of which a sample must have one; each must be that of at least one sample."""
    not_in: list[str] | None = Field(default=None, min_length=1)
    """The values of which a sample must have none."""
    contains: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1)
    """Texts of which one must be somewhere in the value: tissues and diseases are free text in release 2026-01-12."""

    @model_validator(mode="after")
    def _one_rule(self) -> SampleFilter:
        if sum(rule is not None for rule in (self.in_, self.not_in, self.contains)) != 1:
            raise ValueError("a filter needs exactly one of 'in', 'not_in' and 'contains'")
        return self


class ScBaseCount(Planned):
    """scBaseCount of the Arc Virtual Cell Atlas: whole samples, drawn at random until they have `cells` cells.

    A larger draw of the same seed holds a smaller one, part by part. The last sample exceeds `cells`; for an exact
    number, draw somewhat more and let `subset: {cells: …}` take them. Cells with too few genes or counts are dropped
    and counted by `quality` (`min_genes`, `min_counts`). The catalogue's columns stay with the cells, what it writes
    for missing values ("unsure", "not specified", …) as missing, and `member` is the sample.
    """

    kind: Literal["scbasecount"] = "scbasecount"
    release: Literal["2025-02-25", "2026-01-12"] = "2026-01-12"
    """The release, which is the name of its folder."""
    feature_type: FEATURE_TYPES = "GeneFull_Ex50pAS"
    """What STARsolo counted."""
    organism: Annotated[str, Field(pattern="^[A-Z][a-z]+(_[A-Za-z0-9.-]+)+$")] = "Homo_sapiens"
    """The folder of the organism: `Homo_sapiens`, `Mus_musculus`, `Macaca_mulatta`, …"""
    cells: PositiveInt | None = None
    """Whole samples are drawn until they have so many cells. `null`: all samples."""
    seed: int = 0
    """Another seed, another draw."""
    filters: list[SampleFilter] = []
    """Which samples may be drawn: `[{column: tech_10x, in: [3_prime_gex]}, {column: tissue, contains: [lung]}]`."""
    layer: Literal["UniqueAndMult-EM", "UniqueAndMult-Uniform", "spliced", "unspliced", "ambiguous"] | None = None
    """`null`: the counts of reads that map to one gene (of `Velocyto`, the spliced ones). `UniqueAndMult-…` of \
release 2026-01-12: those of other reads, too, shared out; they are fractions, and need `round`."""
    round: bool = False
    """Round fractions to the nearest whole number, halves to the even one."""
    part_cells: PositiveInt = 250_000
    """Samples are bundled into parts of at most so many cells."""
    root: Annotated[str, Field(min_length=1)] = ROOT
    """The folder of the releases: an address, or a path to a copy with the same folders."""
    requester_pays: Annotated[str, Field(min_length=1)] | None = None
    """The Google Cloud project that is billed for the download. `null`: nobody is; the bucket was last said to be \
open. Where it answers that its requester pays: reading from Google's store into another place costs its egress price \
(of the order of 0.1 US$ for a GB) for every byte; `cellmill plan` says how many."""

    @field_validator("release", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return value.isoformat() if isinstance(value, date) else value  # YAML takes a bare release for a date

    @model_validator(mode="after")
    def _layer_is_there(self) -> ScBaseCount:
        if self.layer in _MULTI:
            if self.release != "2026-01-12" or self.feature_type == "Velocyto":
                raise ValueError(f"layer: only release 2026-01-12 has {self.layer}, and not for Velocyto")
            if not self.round:
                raise ValueError(
                    f"layer: {self.layer} holds fractions, and tokens and models here are of counts. "
                    "Take the unique counts (layer: null), or say round: true"
                )
        elif self.layer is not None and self.feature_type != "Velocyto":
            raise ValueError(f"layer: only feature_type Velocyto has '{self.layer}'")
        return self

    def of(self, part: str) -> ScBaseCount:
        """What concerns one part: all but what decides of which samples it is."""
        return self.model_copy(update={"cells": None, "seed": 0, "filters": [], "part_cells": 250_000})

    def local_files(self, base: Path) -> dict[str, Path | None]:
        """Files to look into before anything runs, by config key; None where one is missing."""
        from cellmill.sources.stores import is_address

        return {} if is_address(self.root) or (base / self.root).is_dir() else {"root": None}

    def catalogue_files(self) -> list[str]:
        """Local files that decide the parts, so that a newer one is seen."""
        from cellmill.sources.stores import is_address

        return [] if is_address(self.root) else [self.catalogue_address]

    @property
    def catalogue_address(self) -> str:
        """Where the table of samples is."""
        return f"{self._folder('metadata')}/sample_metadata.parquet"

    @property
    def samples_folder(self) -> str:
        """Where the samples are."""
        return self._folder("h5ad")

    @property
    def counts(self) -> str:
        """Where the counts of a sample are."""
        return "X" if self.layer is None else f"layers/{self.layer}"

    def _folder(self, what: str) -> str:
        return f"{self.root.rstrip('/')}/{self.release}/{what}/{self.feature_type}/{self.organism}"


def samples(
    source: ScBaseCount, catalogue: Path, files: dict[str, tuple[int | None, str | None]]
) -> tuple[list[Member], dict[str, Any]]:
    """The samples that pass the filters and are drawn, in the order of the draw, and what was counted on the way.

    Args:
        catalogue: ``sample_metadata.parquet``.
        files: size and checksum of every file of ``samples_folder``, by name.

    Raises:
        CellmillError: not the catalogue of this release, a filter that no sample can pass, or too few cells.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cellmill.contracts.plan import Member
    from cellmill.sources.files import checked_name
    from cellmill.sources.whole import draw_whole

    try:
        table = pq.read_table(catalogue).to_pandas()
    except (OSError, pa.ArrowInvalid) as error:
        raise CellmillError(catalogue, f"not readable as Parquet ({error}).", "Get it again.") from error
    for column in ("srx_accession", "obs_count"):
        if column not in table:
            raise CellmillError(source.catalogue_address, f"no column '{column}'.", nearest(column, table.columns))
    names = table["srx_accession"].astype(str)
    if names.duplicated().any():
        twice = names[names.duplicated()].iloc[0]
        raise CellmillError(source.catalogue_address, f"sample '{twice}' stands there twice.", "Get it again.")
    texts = {c: _texts(table[c]) for c in table.columns if c not in NOT_OF_CELLS}
    passes = np.ones(len(table), bool)
    dropped: dict[str, int] = {}
    for i, rule in enumerate(source.filters):
        kept = passes & _matches(rule, texts, source, f"filters.{i}")
        dropped[f"{i}: {rule.column}"] = int(passes.sum() - kept.sum())
        passes = kept
    there = names.map(lambda name: f"{name}.h5ad" in files).to_numpy(bool)
    cells = table["obs_count"].fillna(0).to_numpy(np.int64)
    facts: dict[str, Any] = {
        "samples": len(table),
        "dropped_by_filters": dropped,
        "without_file": int((passes & ~there).sum()),
        "without_cells": int((passes & there & (cells <= 0)).sum()),
    }
    chosen = np.flatnonzero(passes & there & (cells > 0))
    drawn, counted = draw_whole(
        names.iloc[chosen].tolist(),
        cells[chosen],
        wanted=source.cells,
        seed=source.seed,
        what="samples",
        known=len(table),
    )
    facts |= counted
    members: list[Member] = []
    for i in chosen[drawn]:
        name = checked_name(source.catalogue_address, names.iloc[i])
        size, checksum = files[f"{name}.h5ad"]
        about = {column: values[i] for column, values in texts.items()}
        address = f"{source.samples_folder}/{name}.h5ad"
        members.append(Member("", name, address, int(cells[i]), size, checksum, about=about))
    return members, facts


def _texts(values: pd.Series) -> list[str | None]:
    """Values as text, None where one is missing, in whatever word."""
    texts = [None if v is None or v != v else str(v).strip() for v in values.to_list()]
    return [None if text is None or text.lower() in MISSING_WORDS else text for text in texts]


def _matches(rule: SampleFilter, texts: dict[str, list[str | None]], source: ScBaseCount, where: str) -> np.ndarray:
    import numpy as np

    if rule.column not in texts:
        raise CellmillError(
            f"source.{where}", f"no column '{rule.column}' in the catalogue.", nearest(rule.column, texts)
        )
    lower = [None if text is None else text.lower() for text in texts[rule.column]]
    if rule.contains is not None:
        parts = [text.lower() for text in rule.contains]
        return np.array([v is not None and any(part in v for part in parts) for v in lower], bool)
    wanted = {text.lower(): text for text in (rule.in_ or rule.not_in or [])}
    if rule.in_ is None:
        return np.array([v not in wanted for v in lower], bool)
    for text in wanted.keys() - set(lower):
        known = {v for v in texts[rule.column] if v is not None}
        raise CellmillError(
            f"source.{where}", f"no sample has '{wanted[text]}' as {rule.column}.", nearest(wanted[text], known)
        )
    return np.array([v in wanted for v in lower], bool)
