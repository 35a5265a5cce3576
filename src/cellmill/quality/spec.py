"""Which cells are kept, and which of them train: the config keys of quality control and of the splits."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from cellmill.errors import nearest
from cellmill.quality.names import GENE_SETS, HARD_BOUNDS, METRICS, bounded_metric, metric_of
from cellmill.spec import Column, FilterValue, Fraction, Name, Percent, PositiveInt, Spec


class Filter(Spec):
    """Cells by an obs column: exactly one of `equals`, `in` and `not_in`. A cell without a value there never passes."""

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    column: Column
    """The obs column."""
    equals: FilterValue | None = None
    """The value that a cell must have, as in `{column: is_primary_data, equals: true}`."""
    in_: list[FilterValue] | None = Field(default=None, alias="in", min_length=1)
    """The values of which a cell must have one; each must be the value of at least one cell of the dataset."""
    not_in: list[FilterValue] | None = Field(default=None, min_length=1)
    """The values of which a cell must have none."""

    @model_validator(mode="after")
    def _one_rule(self) -> Filter:
        if sum(rule is not None for rule in (self.equals, self.in_, self.not_in)) != 1:
            raise ValueError("a filter needs exactly one of 'equals', 'in' and 'not_in'")
        return self

    @property
    def wanted(self) -> list[bool | int | float | str]:
        """Values that let a cell pass; none for `not_in`."""
        return [self.equals] if self.equals is not None else list(self.in_ or [])


class Duplicates(Spec):
    """Cells that have the same counts in every gene, whatever they are called: atlases share cells."""

    rule: Literal["report", "keep", "drop", "error"] = "report"
    """`report`: all stay and are counted, but twins in different splits are an error; `keep`: these are counted, too;
    `drop`: of twins the first by a hash of the cell id stays; `error`: any twins are an error."""
    min_counts: int = Field(default=50, ge=1)
    """Cells with fewer counts are not compared: they are equal by chance."""


class Doublets(Spec):
    """Cells that are probably two, by Scrublet (Wolock et al. 2019, `scanpy.pp.scrublet`), one batch at a time.

    Judged are the cells that no filter, bound or threshold drops. A batch is what `columns.batch` says: take a lane or
    library. Where none is named, the whole dataset is one batch. All cells of a batch are in memory at once.
    """

    rule: Literal["report", "drop"] = "report"
    """`report`: predicted doublets stay, and are counted; `drop`: they are dropped. Either way cells carry
    `doublet_score` and `predicted_doublet` into every export."""
    expected_rate: float = Field(default=0.05, gt=0, lt=1)
    """The share of doublets that is expected, from the number of cells loaded."""
    sim_ratio: float = Field(default=2.0, ge=0.5, le=10)
    """Simulated doublets per cell."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Cells with a higher score are predicted doublets. `null`: between the two modes of the simulated scores of the
    batch; where there are no two modes, none of its cells is predicted, and the report says so. Look at its figure
    before you drop: in a batch of one type of cells the threshold says little."""
    n_components: PositiveInt = 30
    """Principal components in which neighbors are found."""
    min_batch_cells: PositiveInt = 100
    """A batch with fewer cells is not judged: all of its cells stay."""
    max_batch_cells: PositiveInt = 20_000
    """A batch with more cells is an error; the memory that jobs ask for grows with it."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Which doublets are simulated."""

    @model_validator(mode="after")
    def _batches_can_be_judged(self) -> Doublets:
        if self.n_components >= self.min_batch_cells:
            raise ValueError(
                f"min_batch_cells {self.min_batch_cells} must be above n_components {self.n_components}: "
                "fewer cells have not so many components"
            )
        if self.max_batch_cells < self.min_batch_cells:
            raise ValueError(
                f"max_batch_cells {self.max_batch_cells} is below min_batch_cells {self.min_batch_cells}: "
                "no batch could be judged"
            )
        return self


class Rare(Spec):
    """What becomes of values of an obs column that few kept cells have."""

    column: Column
    """The obs column, such as the cell type; it stays with the cells."""
    min_cells: PositiveInt = 5
    """Fewest kept cells of a value that is not rare."""
    rule: Literal["merge", "drop"] = "merge"
    """`merge`: rare values become `into`; `drop`: cells that have one are dropped."""
    into: str = Field(default="other", min_length=1)
    """The value that rare ones become."""


class Quality(Spec):
    """Which cells are kept. Every rule is optional; what is dropped is counted by its first reason.

    The order of the reasons: filters, hard bounds, deviations from the median, doublets, duplicates, rare
    categories.
    """

    filters: list[Filter] = []
    """Cells by obs columns, before anything is computed: `[{column: pass_filter, in: [full]}]`. See `filters:`."""
    min_counts: int = Field(default=1, ge=0)
    """Fewest counts. 0: no bound."""
    max_counts: int | None = Field(default=None, ge=0)
    """Most counts. `null`: no bound."""
    min_genes: int = Field(default=1, ge=0)
    """Fewest genes with a count. 0: no bound."""
    max_genes: int | None = Field(default=None, ge=0)
    """Most genes with a count. `null`: no bound."""
    max_pct_mt: Percent | None = None
    """Largest percentage of mitochondrial counts. `null`: no bound."""
    max_pct_ribo: Percent | None = None
    """Largest percentage of ribosomal counts. `null`: no bound."""
    max_pct_hb: Percent | None = None
    """Largest percentage of haemoglobin counts. `null`: no bound."""
    max_pct: dict[Name, Percent] = {}
    """Gene set of `genes.sets`: largest percentage of its counts, as in `{dissociation: 10}`."""
    mads: dict[str, float | None] = {
        "log1p_total_counts": 5,
        "log1p_n_genes_by_counts": 5,
        "pct_counts_in_top_20_genes": 5,
        "pct_counts_mt": 5,
    }
    """Metric: most median absolute deviations from the median of the batch. Your map replaces this one.
    Of `pct_counts_mt` and of the gene sets of `genes.sets`, only too much is bad."""
    min_batch_cells: PositiveInt = 50
    """A batch with fewer cells takes the thresholds of the whole dataset."""
    doublets: Doublets | None = None
    """Cells that are probably two. `null`: they are not looked for."""
    duplicates: Duplicates = Duplicates()
    """Cells that have the same counts in every gene."""
    rare: Rare | None = None
    """Values of an obs column that few kept cells have. `null`: they stay as they are."""

    @field_validator("mads")
    @classmethod
    def _known_metrics(cls, value: dict[str, float | None]) -> dict[str, float | None]:
        for metric, n_mads in value.items():
            if metric not in METRICS and not metric.startswith(metric_of("")):  # sets are known to the dataset
                raise ValueError(f"no metric '{metric}'. {nearest(metric, METRICS)}")
            if n_mads is not None and n_mads <= 0:
                raise ValueError(f"{metric}: {n_mads} MADs would drop every cell; take a number above 0, or null")
        return value

    @field_validator("max_pct")
    @classmethod
    def _said_once(cls, value: dict[str, float]) -> dict[str, float]:
        own = next((name for name in value if name in GENE_SETS), None)
        if own is not None:
            raise ValueError(f"'{own}' has a key of its own: max_pct_{own}")
        return value

    @property
    def fixed_bounds(self) -> dict[str, float | None]:
        """Every fixed bound by name, in the order in which they are reasons."""
        return {name: getattr(self, name) for name in HARD_BOUNDS} | {
            f"max_pct_{name}": bound for name, bound in self.max_pct.items()
        }

    @property
    def metrics(self) -> list[str]:
        """The metrics that decide about a cell, each once."""
        return list(dict.fromkeys([*map(bounded_metric, self.fixed_bounds), *self.mads]))

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> Quality:
        for name in ("counts", "genes"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if high is not None and high < low:
                raise ValueError(f"max_{name} {high} is below min_{name} {low}: no cell would be left")
        return self


class Split(Spec):
    """Who trains and who tests, decided before anything is fitted."""

    by: str | list[Column] = "cell"
    """`cell`, or an obs column (donor, study, drug), or a list of columns: then no group stands on two sides."""
    fractions: dict[Name, Fraction] = {"train": 0.8, "val": 0.1, "test": 0.1}
    """Share of the kept cells in each split; must add up to 1 and have `train`."""
    seed: int = 0
    """Another seed, another split; the same seed, the same split, whatever the parts and their order."""
    method: Literal["balanced", "hash"] | None = None
    """`hash`: a cell's or group's place depends on nothing else, and fractions are met on average; `balanced`: every
    split is within one group of its fraction (of cells: within one cell), and new data may move groups at the edges.
    `null`: `hash` for cells, `balanced` for groups and strata."""
    stratify: list[Column] = []
    """With `by: cell`: obs columns of which every combination of values is split by the fractions for itself."""
    explicit: dict[Name, str | list[str | list[str]]] = {}
    """Split: its cell ids or groups (each a list of values where `by` has several columns), or a file with one per
    line, values apart by tabs, as in a published split; what is not named is split as above."""

    @property
    def columns(self) -> list[str]:
        """The columns whose values make a group; none where the split is by cell."""
        if self.by == "cell":
            return []
        return [self.by] if isinstance(self.by, str) else list(self.by)

    @property
    def balanced(self) -> bool:
        """Whether fractions are met within one group."""
        return bool(self.columns or self.stratify) if self.method is None else self.method == "balanced"

    @property
    def files(self) -> dict[str, str]:
        """Lists in files, by split."""
        return {name: listed for name, listed in self.explicit.items() if isinstance(listed, str)}

    @field_validator("by")
    @classmethod
    def _columns_once(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list) and (not value or "cell" in value or len(set(value)) < len(value)):
            raise ValueError(f"{value} is no list of obs columns, each once")
        return value

    @field_validator("fractions")
    @classmethod
    def _sum_to_one(cls, value: dict[str, float]) -> dict[str, float]:
        total = sum(value.values())
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the fractions add up to {total:g}, not to 1")
        if value.get("train", 0) <= 0:
            raise ValueError("there is no 'train' above 0: what is learned from the data is learned there")
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> Split:
        if self.stratify and self.columns:
            raise ValueError("stratify needs 'by: cell': a group stands on one side as a whole")
        if self.stratify and not self.balanced:
            raise ValueError("stratify needs 'method: balanced', or none said")
        for name in self.explicit:
            if name not in self.fractions:
                fix = nearest(name, self.fractions)
                raise ValueError(f"explicit: '{name}' is no split; give it a fraction, which may be 0. {fix}")
        listed = [
            tuple(v) if isinstance(v, list) else (v,)
            for values in self.explicit.values()
            if isinstance(values, list)
            for v in values
        ]
        twice = next((v for v in listed if listed.count(v) > 1), None) if len(listed) < 10_000 else None
        if twice is not None:
            raise ValueError(f"explicit: {', '.join(twice)} is listed twice")
        wrong = next((v for v in listed if len(v) != max(1, len(self.columns))), None)
        if wrong is not None:
            raise ValueError(f"explicit: {list(wrong)} has {len(wrong)} values, 'by' has {max(1, len(self.columns))}")
        return self


class LabelRules(Spec):
    """What is read of the obs table: all that `read_labels` depends on."""

    filters: list[Filter] = []
    groups: list[Column] = []
    strata: list[Column] = []
    category: Column | None = None


class CellRules(Spec):
    """What decides a cell's fate and what stays with it: all that `process_part` depends on."""

    quality: Quality
    split: Split
    kept_columns: list[Column]
