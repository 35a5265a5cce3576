"""``files``: named local paths and http(s) addresses, one part each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cellmill.errors import CellmillError
from cellmill.spec import Name, Spec

if TYPE_CHECKING:
    import h5py
    import numpy as np
    import scipy.sparse as sp


class Files(Spec):
    """h5ad, 10x `.h5`, or a `.tar.gz` of a 10x matrix folder: local paths or http(s) addresses."""

    kind: Literal["files"] = "files"
    files: dict[Name, str] = Field(min_length=1)
    """Part name: path (relative to the working folder) or address."""
    sha256: dict[Name, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = {}
    """Part name: checksum, where you know it. `resources/ledger.tsv` knows those of the shipped datasets."""

    def parts(self) -> list[str]:
        """Names of the parts, sorted."""
        return sorted(self.files)

    def shown(self, key: str) -> str:
        """The path behind a key of ``local_files``, for an error."""
        return f" '{self.files[key.removeprefix('files.')]}'"

    def local_files(self, base: Path) -> dict[str, Path | None]:
        """Files to look into before anything runs, by config key; None where one is missing."""
        local = {k: base / v for k, v in self.files.items() if not is_address(v)}
        return {f"files.{k}": p if p.exists() else None for k, p in local.items()}


def is_address(text: str) -> bool:
    """Whether this is an http(s) address and not a path."""
    return text.startswith(("http://", "https://"))


# 10x matrices. Imports are inside: this module is read whenever a DAG is built.

GENE_EXPRESSION = "Gene Expression"
_TENX_FILES = frozenset(
    name + suffix for name in ("matrix.mtx", "features.tsv", "genes.tsv", "barcodes.tsv") for suffix in ("", ".gz")
)


def convert_tenx_h5(path: Path, out: Path) -> str:
    """Write a 10x ``.h5`` matrix as h5ad: gene expression, CSR, sorted, uint16 or uint32.

    Var is indexed by gene id, with a column ``gene_symbols``; obs by barcode as found.
    Cell Ranger's files of version 2 (a group per genome) and from 3 on (a group ``matrix``) are read.
    Both hold cell after cell, so that memory depends on the block and not on the file.

    Returns:
        A sentence on what was left out, or ``""``.

    Raises:
        CellmillError: not such a file, several genomes, one row per probe, or values that are no counts.
    """
    import numpy as np
    import scipy.sparse as sp

    from cellmill.matrix.reader import BLOCK_ROWS, BLOCK_VALUES, open_h5ad

    with open_h5ad(path) as file:
        try:
            group, ids, symbols, types = _tenx_genes(path, file)
            barcodes = group["barcodes"].asstr()[:]
            data, indices = group["data"], group["indices"]
            indptr = group["indptr"][:].astype(np.int64)
            lengths = len(data), len(indices), int(indptr[-1])
        except (KeyError, TypeError, AttributeError, IndexError, OSError) as error:
            raise CellmillError(
                path, f"not a whole 10x matrix ({error}).", "Get it again. If it is AnnData, name it .h5ad."
            ) from error
        fits = len({len(ids), len(symbols), len(types)}) == len(set(lengths)) == 1
        if not fits or len(indptr) != len(barcodes) + 1 or np.diff(indptr).min(initial=0) < 0:
            raise CellmillError(path, "its arrays do not fit each other.", "The file is damaged; get it again.")
        kept, note = _gene_expression(path, types)
        new_column = np.full(len(ids), -1, np.int32)
        new_column[kept] = np.arange(len(kept), dtype=np.int32)

        def blocks() -> Iterator[sp.csr_matrix]:
            start = 0
            while start < len(barcodes):
                last = int(np.searchsorted(indptr, indptr[start] + BLOCK_VALUES, side="right")) - 1
                stop = min(max(last, start + 1), start + BLOCK_ROWS, len(barcodes))
                lo, hi = indptr[start], indptr[stop]
                found = _read(path, indices, lo, hi)
                if len(found) and (found.min() < 0 or found.max() >= len(ids)):
                    raise CellmillError(
                        path,
                        f"a value of cells {start} to {stop} belongs to none of its {len(ids)} features.",
                        "The file is damaged; get it again.",
                    )
                rows = np.repeat(np.arange(stop - start), np.diff(indptr[start : stop + 1]))
                columns = new_column[found]
                is_gene = columns >= 0
                entries = (_read(path, data, lo, hi)[is_gene], (rows[is_gene], columns[is_gene]))
                yield _as_counts(path, sp.csr_matrix(entries, shape=(stop - start, len(kept))))
                start = stop

        steps = range(0, lengths[0], BLOCK_VALUES)
        largest = max((_read(path, data, lo, lo + BLOCK_VALUES).max() for lo in steps), default=0)
        _write_h5ad(out, blocks(), largest=largest, barcodes=barcodes, ids=ids[kept], symbols=symbols[kept])
    return note


def _read(path: Path, dataset: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    try:
        values: np.ndarray = dataset[start:stop]
        return values
    except OSError as error:
        raise CellmillError(path, f"not readable ({error}).", "The file is damaged; get it again.") from error


def _write_h5ad(
    out: Path,
    blocks: Iterable[sp.csr_matrix],
    *,
    largest: float,
    barcodes: np.ndarray,
    ids: np.ndarray,
    symbols: np.ndarray,
) -> None:
    import numpy as np
    import pandas as pd

    from cellmill.files import replacing
    from cellmill.matrix.writer import H5adWriter

    with replacing(out) as aside:
        dtype = np.dtype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32)
        writer = H5adWriter(aside, n_genes=len(ids), dtype=dtype)
        try:
            for block in blocks:
                writer.append(block)
            var = pd.DataFrame({"gene_symbols": symbols}, index=pd.Index(ids, name="gene_ids"))
            writer.close(obs=pd.DataFrame(index=pd.Index(barcodes)), var=var, uns={})
        except BaseException:
            writer.abandon()
            raise


def _tenx_genes(path: Path, file: h5py.File) -> tuple[h5py.Group, np.ndarray, np.ndarray, np.ndarray]:
    """The matrix group, and ids, symbols and feature types (features,)."""
    import h5py
    import numpy as np

    if "matrix" in file:
        group = file["matrix"]
        features = group["features"]
        if "gene_id" in features:
            raise CellmillError(
                path,
                "one row per probe, not per gene.",
                "Take filtered_feature_bc_matrix.h5 or raw_feature_bc_matrix.h5 of the same run.",
            )
        ids, symbols, types = (features[k].asstr()[:] for k in ("id", "name", "feature_type"))
        if "genome" in features:
            _one_genome(path, set(features["genome"].asstr()[:][types == GENE_EXPRESSION]))
        return group, ids, symbols, types
    groups = {name: node for name, node in file.items() if isinstance(node, h5py.Group)}
    genomes = [name for name, node in groups.items() if "barcodes" in node and "genes" in node]
    if not genomes:
        fix = "Give a 10x matrix (filtered_feature_bc_matrix.h5). If it is AnnData, name it .h5ad."
        raise CellmillError(path, f"not a 10x matrix (there: {', '.join(sorted(file)[:10]) or 'nothing'}).", fix)
    _one_genome(path, set(genomes))
    group = file[genomes[0]]
    ids, symbols = group["genes"].asstr()[:], group["gene_names"].asstr()[:]
    return group, ids, symbols, np.full(len(ids), GENE_EXPRESSION, object)


def _one_genome(path: Path, genomes: set[str]) -> None:
    if len(genomes) > 1:
        raise CellmillError(
            path,
            f"several genomes in one file: {', '.join(sorted(genomes))}.",
            "A dataset has one gene space: split the file by genome first, and give one part per genome and dataset.",
        )


def _gene_expression(path: Path, types: np.ndarray) -> tuple[np.ndarray, str]:
    """Positions of the genes among the features, and a sentence on the others."""
    import collections

    import numpy as np

    kept = np.flatnonzero(types == GENE_EXPRESSION)
    others = collections.Counter(str(t) for t in types[types != GENE_EXPRESSION])
    listed = ", ".join(f"{n:,} {name}" for name, n in sorted(others.items()))
    if not len(kept):
        raise CellmillError(path, f"no '{GENE_EXPRESSION}' features (there: {listed or 'none'}).", "Give another file.")
    return kept, f"Left out, as they are no genes: {listed} features." if others else ""


def _as_counts(path: Path, matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The same values as uint32 with sorted indices and no stored zeros; refused where they are no counts."""
    import numpy as np
    import scipy.sparse as sp

    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    data = matrix.data
    bad = np.flatnonzero(~((data > 0) & (data <= np.iinfo(np.uint32).max) & (data == np.floor(data))))
    if len(bad):
        raise CellmillError(
            path, f"not counts: it holds {data[bad[0]]}.", "Give the matrix of raw counts: whole numbers from 0 on."
        )
    return sp.csr_matrix((data.astype(np.uint32), matrix.indices, matrix.indptr), shape=matrix.shape)


def convert_tenx_folder(folder: Path, out: Path) -> str:
    """Write a 10x matrix folder (``matrix.mtx``, ``features.tsv`` or ``genes.tsv``, ``barcodes.tsv``) as h5ad.

    Each of the three may be gzipped.
    The matrix is held in memory whole, because the format allows any order.

    Returns:
        A sentence on what was left out, or ``""``.

    Raises:
        CellmillError: a file is missing or damaged, the three do not fit each other, or values are no counts.
    """
    import csv
    import zlib

    import numpy as np
    import pandas as pd
    import scipy.io
    import scipy.sparse as sp

    def one_of(*names: str) -> Path:
        found = [folder / (n + suffix) for n in names for suffix in (".gz", "") if (folder / (n + suffix)).is_file()]
        if not found:
            raise CellmillError(folder, f"no {' or '.join(names)}[.gz].", "Give the whole folder that 10x makes.")
        return found[0]

    def table(path: Path) -> pd.DataFrame:
        # As text: a gene or cell may be called NA.
        return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)

    files = one_of("matrix.mtx"), one_of("features.tsv", "genes.tsv"), one_of("barcodes.tsv")
    try:
        matrix, features, barcodes = scipy.io.mmread(files[0]), table(files[1]), table(files[2])
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise CellmillError(folder, f"not readable ({error}).", "It may be truncated; get it again.") from error
    if matrix.shape != (len(features), len(barcodes)):
        raise CellmillError(
            folder,
            f"the matrix has {matrix.shape[0]} rows and {matrix.shape[1]} columns, "
            f"but there are {len(features)} features and {len(barcodes)} barcodes.",
            "The files are not of one run; get them again.",
        )
    ids = features[0].to_numpy(object)
    symbols = features[1].to_numpy(object) if features.shape[1] > 1 else ids
    types = features[2].to_numpy(object) if features.shape[1] > 2 else np.full(len(ids), GENE_EXPRESSION, object)
    kept, note = _gene_expression(folder, types)
    counts = sp.csr_matrix(matrix.T)
    del matrix
    counts = _as_counts(folder, counts if len(kept) == len(ids) else counts[:, kept])
    largest = counts.data.max(initial=0)
    barcode = barcodes[0].to_numpy(object)
    _write_h5ad(out, [counts], largest=largest, barcodes=barcode, ids=ids[kept], symbols=symbols[kept])
    return note


def unpack_tenx(archive: Path, folder: Path) -> Path:
    """Unpack the one 10x matrix folder of a ``.tar.gz`` into ``folder``; where it lies there.

    Only the files of the matrix are unpacked.

    Raises:
        CellmillError: truncated, no or several matrix folders, or an archive that reaches outside
            (names that leave the folder, links, devices), or more than the disk has room for.
    """
    import shutil
    import tarfile
    import zlib

    from cellmill.files import format_bytes, inside, is_disk_full

    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = tar.getmembers()
            for member in members:
                inside(folder, member.name)
                if not (member.isfile() or member.isdir()):
                    found = f"'{member.name}' is a link or a device."
                    raise CellmillError(archive, found, "Pack files and folders, and nothing else.")
            files = [m for m in members if m.isfile() and m.name.rsplit("/", 1)[-1] in _TENX_FILES]
            homes = {m.name.rpartition("/")[0] for m in files if m.name.rsplit("/", 1)[-1].startswith("matrix.mtx")}
            if len(homes) != 1:
                listed = f"{len(homes)} folders with a matrix.mtx: {', '.join(sorted(homes))}."
                raise CellmillError(
                    archive,
                    listed if homes else f"no matrix.mtx among its {len(members)} entries.",
                    "Give an archive of one 10x matrix folder, or unpack it and name the folder itself.",
                )
            (home,) = homes
            files = [m for m in files if m.name.rpartition("/")[0] == home]
            size, free = sum(m.size for m in files), shutil.disk_usage(folder).free
            if size > free:
                raise CellmillError(
                    archive,
                    f"unpacked it has {format_bytes(size)}; {format_bytes(free)} are free in {folder.parent}.",
                    "Free some space, or let CELLMILL_SCRATCH name a folder on a larger disk.",
                )
            for member in files:
                tar.extract(member, folder, filter="data")
            return inside(folder, home)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if is_disk_full(error):
            raise CellmillError(folder, "the disk is full.", "Free some space, and run again.") from error
        raise CellmillError(archive, f"cannot be unpacked ({error}).", "It may be truncated; get it again.") from error
