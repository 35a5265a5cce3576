"""Models of scvi-tools without an AnnData of the cells: set up over a few made-up rows, run over blocks of counts."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellmill.embedders.device import Device, find_device
from cellmill.embedders.find_genes import SHOWN
from cellmill.embedders.rates import matrix_weights
from cellmill.embedders.scvi_files import SavedModel
from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import anndata
    import pandas as pd

    from cellmill.embedders import OfCells, ScviReference

log = logging.getLogger("cellmill")
ROWS = {"cpu": 192, "cuda": 4_096}
"""Cells that go through a model together, always as many: a product may round a row differently in another shape.
192 is a multiple of the heights of the tiles that products on a CPU are made of, so that no row stands in a rest."""


@dataclass(frozen=True)
class Inputs:
    """What a model reads of a dataset."""

    genes: list[str]
    """Its genes, by its own names."""
    slots: np.ndarray
    """int32 (genes of the dataset,): the model's gene that each is, or -1."""
    batch: str | None
    """Obs column of the batch; None: one batch."""
    categorical: list[str]
    continuous: list[str]

    @property
    def discrete(self) -> list[str]:
        """Obs columns of categories, the batch first."""
        return [*([] if self.batch is None else [self.batch]), *self.categorical]

    @property
    def found(self) -> int:
        """Genes of the model that the dataset has."""
        return int((self.slots >= 0).sum())


def inputs_of(spec: OfCells, genes: pd.DataFrame, *, batch: str | None, saved: SavedModel | None) -> Inputs:
    """What the model of ``spec`` reads of a dataset with these ``genes`` and this batch column.

    Args:
        saved: the model where it is there already.

    Raises:
        CellmillError: no gene varies, or the dataset lacks too many of the model's genes.
    """
    from cellmill.contracts.genes import variable_columns
    from cellmill.embedders.normalize import slots_of

    column = spec.batch or batch
    if spec.kind == "scvi":
        chosen = np.arange(len(genes)) if spec.genes == "all" else np.sort(variable_columns(genes, spec.n_genes))
        if len(chosen) == 0:
            raise CellmillError("genes", "no gene varies.", "Leave 'scvi' out of this dataset's embedders.")
        ids = [str(g) for g in genes["gene_id"].to_numpy()[chosen]]
        covariates = list(spec.categorical_covariates), list(spec.continuous_covariates)
        return Inputs(ids, slots_of(chosen, len(genes)), column, *covariates)
    if saved is None:
        raise ValueError("scvi_reference needs its model")
    setup = saved.setup
    return Inputs(
        saved.var_names,
        _slots(spec, genes, saved),
        None if setup.get("batch_key") is None else column,
        list(setup.get("categorical_covariate_keys") or []),
        list(setup.get("continuous_covariate_keys") or []),
    )


def _slots(spec: ScviReference, genes: pd.DataFrame, saved: SavedModel) -> np.ndarray:
    """Which gene of the model each gene of the dataset is; of several with one name, the first."""
    from cellmill.genes.identifiers import without_version

    place: dict[str, int] = {}
    for i, name in enumerate(saved.var_names):
        place.setdefault(without_version(name), i)
    slots = np.full(len(genes), -1, np.int32)
    for column, name in enumerate(genes[spec.gene_names]):
        slots[column] = place.pop(without_version(name), -1) if isinstance(name, str) else -1
    found = int((slots >= 0).sum())
    share = found / len(saved.var_names)
    if found == 0 or share < spec.min_genes_found:
        raise CellmillError(
            saved.path,
            f"{found:,} of its {len(saved.var_names):,} genes are in the dataset ({share:.0%}), such as "
            f"'{saved.var_names[0]}'; at least {spec.min_genes_found:.0%} are asked for.",
            f"It is looked up by {spec.gene_names}: see gene_names, genes.table and min_genes_found.",
        )
    if found < len(saved.var_names):
        absent = [saved.var_names[i] for i in np.setdiff1d(np.arange(len(saved.var_names)), slots)]
        shown = ", ".join(absent[:SHOWN]) + (", …" if len(absent) > SHOWN else "")
        log.warning("%s: %d of its %d genes are not there: %s", saved.path, len(absent), len(saved.var_names), shown)
    return slots


def example(
    genes: Sequence[str], *, categories: Mapping[str, Sequence[Any]], numbers: Sequence[str], layer: str | None = None
) -> anndata.AnnData:
    """Rows from which scvi-tools learns what the data are like: every category of each column at least three times.

    Its X has a single count in each row, so that it needs no room however many genes there are.
    """
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    n = 3 * max([1, *(len(c) for c in categories.values())])
    columns: dict[str, Any] = {
        name: pd.Categorical.from_codes([i % len(values) for i in range(n)], categories=pd.Index(list(values)))
        for name, values in categories.items()
    }
    obs = pd.DataFrame(columns | {name: np.ones(n) for name in numbers}, index=pd.RangeIndex(n).astype(str))
    ones = (np.ones(n, np.float32), np.zeros(n, np.int32), np.arange(n + 1, dtype=np.int32))
    counts = sp.csr_matrix(ones, shape=(n, len(genes)))
    made = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(list(genes), dtype=str)))
    if layer is not None:
        made.layers[layer] = counts
    return made


def _of(saved: SavedModel, more: Mapping[str, Sequence[Any]] | None = None) -> anndata.AnnData:
    """Such rows for a model, with its own categories and, by the name of a column, ``more``."""
    setup, more = saved.setup, more or {}
    categories: dict[str, Sequence[Any]] = {}
    for key, field in (("batch_key", "batch"), ("labels_key", "labels")):
        if setup.get(key) is not None:
            categories[str(setup[key])] = list(saved.field(field)["categorical_mapping"])
    mappings = saved.field("extra_categorical_covs").get("mappings", {})
    categories |= {str(name): list(values) for name, values in mappings.items()}
    for name, values in more.items():
        categories[name] = [*categories[name], *(v for v in values if v not in set(categories[name]))]
    numbers = [*(setup.get("continuous_covariate_keys") or []), setup.get("size_factor_key")]
    return example(
        saved.var_names, categories=categories, numbers=[n for n in numbers if n is not None], layer=setup.get("layer")
    )


def open_model(saved: SavedModel) -> Any:
    """The model as ``SCVI.load`` gives it, without running anything of its file.

    Raises:
        CellmillError: scvi-tools does not know its options, or its weights do not fit them.
    """
    with quiet() as scvi:
        rows = _of(saved)
        try:
            scvi.model.SCVI.setup_anndata(rows, source_registry=saved.registry, **saved.setup)
            model = scvi.model.SCVI(rows, **saved.init)
            model.module.load_state_dict(saved.state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CellmillError(
                saved.path,
                f"is no SCVI model that scvi-tools {scvi.__version__} can open ({first}).",
                "Load it with the scvi-tools that wrote it, and save it with this one.",
            ) from error
        model.is_trained_ = True
        model.module.eval()
        return model


def extended(saved: SavedModel, categories: Mapping[str, Sequence[Any]]) -> Any:
    """The model as ``SCVI.load_query_data`` gives it for data with these ``categories``, by the model's own names."""
    with quiet() as scvi:
        return scvi.model.SCVI.load_query_data(_of(saved, categories), open_model(saved), accelerator="cpu")


@contextmanager
def quiet() -> Iterator[Any]:
    """scvi-tools, without what it says of rows that are made up, and Lightning without its advice."""
    import scvi

    loggers = [logging.getLogger(name) for name in ("scvi", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield scvi
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def categories_of(model: Any) -> list[list[Any]]:
    """The categories of the batch, and of each categorical covariate in the order of the model."""
    fields = model.registry["field_registries"]
    batch = list(fields["batch"]["state_registry"]["categorical_mapping"])
    covariates = fields.get("extra_categorical_covs", {}).get("state_registry", {})
    return [batch, *(list(covariates["mappings"][name]) for name in covariates.get("field_keys", ()))]


def text_of(value: Any) -> str:
    """A category as Arrow writes it, by which it is looked up."""
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


def tensors(
    counts: Any, *, batch: np.ndarray, categorical: Sequence[np.ndarray], continuous: Sequence[np.ndarray]
) -> dict[str, Any]:
    """A batch as the modules of scvi-tools read it: ``counts`` float32 (n, genes), codes and numbers (n,)."""
    import torch

    made = {"X": counts, "batch": _column([batch], np.int64), "labels": torch.zeros((len(batch), 1), dtype=torch.int64)}
    if categorical:
        made["extra_categorical_covs"] = _column(categorical, np.int64)
    if continuous:
        made["extra_continuous_covs"] = _column(continuous, np.float32)
    return made


def _column(values: Sequence[np.ndarray], dtype: Any) -> Any:
    import torch

    return torch.from_numpy(np.stack([np.asarray(v, dtype) for v in values], axis=1))


class Latent:
    """The latent means of a model, of a fixed number of cells at once.

    Raises:
        CellmillError: no such device, or a model whose latent space has no mean.
    """

    def __init__(self, model: Any, *, device: Device, where: object) -> None:
        self.device, self.rows = find_device(device, where), ROWS[device]
        self.module = model.module.to(self.device).eval()
        if self.module.latent_distribution != "normal":
            raise CellmillError(
                where, f"its latent space is '{self.module.latent_distribution}'.", "Take a model with a normal one."
            )
        self.dimensions = int(self.module.n_latent)
        self.n_genes = int(self.module.n_input)
        self.reads_covariates = bool(self.module.encode_covariates)
        """Whether vectors depend on batch and covariates."""

    def __call__(self, dense: np.ndarray, covariates: Mapping[str, Any]) -> np.ndarray:
        """float32 (m, dimensions) of ``dense`` float32 (rows, genes), of which the first m are cells.

        Args:
            covariates: ``batch``, ``categorical`` and ``continuous`` of the m cells, as ``tensors`` takes them.
        """
        import torch

        n = len(covariates["batch"])

        def padded(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values, np.zeros(self.rows - n, values.dtype)])

        given = tensors(
            torch.from_numpy(dense),
            batch=padded(covariates["batch"]),
            categorical=[padded(v) for v in covariates["categorical"]],
            continuous=[padded(v) for v in covariates["continuous"]],
        )
        torch.set_num_threads(1)  # of this thread; a product in several may add up in another order
        with torch.inference_mode():
            moved = {name: tensor.to(self.device) for name, tensor in given.items()}
            found = self.module.inference(**self.module._get_inference_input(moved))
            means: np.ndarray = found["qz"].loc[:n].cpu().numpy()
        return means

    @property
    def operations(self) -> float:
        """Floating-point operations for a cell: its way through the encoder, two for each weight."""
        return 2.0 * matrix_weights(self.module.z_encoder)
