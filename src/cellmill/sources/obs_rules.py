"""``missing:`` and ``join:``: what is changed in the obs tables of a dataset, and what is added to them.

Light on purpose: it is read on every ``snakemake -n``.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from cellmill.errors import nearest
from cellmill.sources.stores import is_address
from cellmill.spec import Column, Spec

MISSING_WORDS = frozenset(
    {"", "none", "nan", "na", "n/a", "unsure", "unknown", "not specified", "not applicable", "not_applicable"}
    | {"missing", "not collected", "not provided"}
)
"""What catalogues write for a missing value, in lower case."""
ENRICHED_TABLE = "enriched.parquet"
"""The table of ``enrich:``, in ``tables/`` of the dataset."""
TABLE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


class Missing(Spec):
    """Words that stand for a missing value become one, whatever their case and the blanks around them.

    No filter then matches them and no table is joined by them; a group or stratum of cells without a value is one of
    its own. The report counts them.
    """

    words: list[str] = sorted(MISSING_WORDS)
    """The words. Your list replaces this one."""
    columns: list[Column] = []
    """The obs columns of text in which they are looked for, joined ones included. `[]`: all of them."""

    @field_validator("words")
    @classmethod
    def _compared_in_lower_case(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("name a word, or leave 'words' out")
        return sorted({word.strip().lower() for word in value})


def _spelt_out(value: Any) -> Any:
    if value is True:
        return {}
    if value is False:
        return None
    return {"words": value} if isinstance(value, list) else value


MissingValues = Annotated[
    Missing | None, BeforeValidator(_spelt_out, json_schema_input_type=bool | list[str] | Missing | None)
]
"""``true``: the words that are known; a list: these words; or the section."""


class Keys(Spec):
    """The columns that a table is joined by, where they have different names."""

    obs: Column
    """The obs column."""
    table: Column
    """The column of the table."""


class Join(Spec):
    """Columns of a table for the cells: each cell gets the row that has its key.

    They can be named wherever an obs column can. The table has a row per key; keys are compared as text, and a missing
    one matches nothing. Columns have the type that they have in Parquet; of text files, whole numbers, numbers and
    true/false are found out, and empty fields, `NA`, `NaN` and `null` are missing.
    """

    table: Annotated[str, Field(min_length=1)]
    """A path or an address; `.csv`, `.tsv` (these also with `.gz`) or `.parquet`."""
    by: Column | Keys
    """The column by which it is joined, or `{obs: drug_name, table: name}` where it has two names."""
    columns: list[Column] = []
    """Which columns are joined. `[]`: all others of the table."""
    prefix: str = ""
    """Put before the name of each."""
    unmatched: Literal["count", "error"] = "count"
    """A cell whose key is not in the table: `count`: it has no value there, and the report says how many; `error`."""
    replace: bool = False
    """`true`: obs columns of the same name are replaced. `false`: that is an error."""

    @model_validator(mode="after")
    def _is_a_table(self) -> Join:
        if not self.ending:
            raise ValueError(f"cannot tell what '{self.shown}' is; a table ends in {', '.join(TABLE_ENDINGS)}")
        if self.keys.table in self.columns:
            raise ValueError(f"'{self.keys.table}' is the key, and cannot be joined, too")
        return self

    @property
    def keys(self) -> Keys:
        """The columns of both sides."""
        return Keys(obs=self.by, table=self.by) if isinstance(self.by, str) else self.by

    @property
    def ending(self) -> str:
        """Which of ``TABLE_ENDINGS`` the table has; none where it has another."""
        name = self.shown.lower()
        return max((e for e in TABLE_ENDINGS if name.endswith(e)), key=len, default="")

    @property
    def shown(self) -> str:
        """The path, or the address without its query: fit for errors and facts."""
        return self.table.partition("?")[0] if is_address(self.table) else self.table

    def names(self, header: Collection[str]) -> dict[str, str]:
        """The obs column that each joined column becomes."""
        chosen = self.columns or [c for c in header if c != self.keys.table]
        return {column: f"{self.prefix}{column}" for column in chosen}


class Enrich(Spec):
    """What SRA and BioSample say of each sample, looked up by its accession at NCBI's E-utilities.

    The answers make a table, which is joined before those of `join`, with a row per accession. They are kept on the
    disk, so that a later run asks for new accessions alone. Set `NCBI_API_KEY` for 10 requests in a second in place of
    3. Without internet, join a table of your own.
    """

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    by: Column
    """The obs column of accessions, which may be one of the catalogue: `SRR…`, `SRX…`, `SRS…`, `SAMN…`, `GSM…`."""
    from_: list[Literal["sra", "biosample"]] = Field(default=["sra", "biosample"], alias="from", min_length=1)
    """Where to look. A value that both have is that of the first."""
    columns: list[Column] = Field(min_length=1)
    """Which attributes are joined, as `[tissue, disease, sex, study_accession]`; some sample must have each.
    Names are in lower case with underscores; several values of a sample are written with semicolons."""
    prefix: str = ""
    """Put before the name of each."""
    unmatched: Literal["count", "error"] = "count"
    """A cell whose accession has no record: `count`: it has no value there, and the report says how many; `error`."""
    replace: bool = False
    """`true`: obs columns of the same name are replaced. `false`: that is an error."""

    def reads_sra(self, accessions: Collection[str]) -> bool:
        """Whether SRA is asked: for itself, or for the BioSample of a run, an experiment or a sample of GEO."""
        return "sra" in self.from_ or any(not a.startswith("SAM") for a in accessions)

    @property
    def join(self) -> Join:
        """How the table is joined."""
        said = self.model_dump(include={"columns", "prefix", "unmatched", "replace"})
        return Join(table=ENRICHED_TABLE, by=Keys(obs=self.by, table="accession"), **said)


class ObsRules(Spec):
    """What is changed in obs and added to it: all that `annotate_part` depends on."""

    missing: Missing | None = None
    joins: list[Join] = []

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return self.missing is not None or bool(self.joins)


def header_of(path: Path, ending: str) -> list[str]:
    """The names of the columns of a table, without its rows.

    Raises:
        ValueError: not readable.
    """
    if ending == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(path).names)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"not readable as Parquet ({error})") from error
    try:
        with (gzip.open if ending.endswith(".gz") else open)(path, "rt", encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream, delimiter="\t" if ending.startswith(".tsv") else ","), [])
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise ValueError(f"not readable as text ({error})") from error


def join_problems(
    enrich: Enrich | None, joins: list[Join], obs: list[str] | None, base: Path
) -> tuple[list[str], list[str] | None]:
    """What is wrong with ``enrich:`` and ``join:`` as far as headers say, and the obs columns after them.

    These are None where they are unknown.

    Args:
        obs: the obs columns as found; None where the files are not here yet.
    """
    problems, known = list[str](), None if obs is None else list(obs)
    named = [("enrich", enrich.join)] if enrich is not None else []
    for where, join in [*named, *((f"join.{i}", join) for i, join in enumerate(joins))]:
        header = join.columns if where == "enrich" else None
        if where != "enrich" and not is_address(join.table):
            path = base / join.table
            if not path.is_file():
                problems.append(f"{where}.table: no file '{join.table}'.")
                known = None
                continue
            try:
                header = header_of(path, join.ending)
            except ValueError as error:
                problems.append(f"{where}.table: {join.table}: {error}.")
                known = None
                continue
            twice = next((c for c in header if header.count(c) > 1), None)
            if twice is not None:
                problems.append(f"{where}.table: '{twice}' stands twice in the header of {join.table}.")
            for key, column in (("by", join.keys.table), *(("columns", c) for c in join.columns)):
                if column not in header:
                    problems.append(f"{where}.{key}: no column '{column}' in {join.table}. {nearest(column, header)}")
        if known is not None:
            if join.keys.obs not in known:
                problems.append(f"{where}.by: no obs column '{join.keys.obs}'. {nearest(join.keys.obs, known)}")
            new = list(join.names(header or []).values())
            there = [name for name in new if name in known]
            if there and not join.replace:
                problems.append(
                    f"{where}: there is an obs column '{there[0]}' already. Say prefix, or replace: true, "
                    "or name other columns."
                )
            known = known + [name for name in new if name not in known]
            if header is None and not join.columns:
                known = None  # what an address has is not known yet
    return problems, known
