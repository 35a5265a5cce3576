"""10x matrices to h5ad: ``.h5`` of all generations, probe sets, matrix folders, and archives of these.

Imports are inside: this module is read whenever a DAG is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellmill.errors import CellmillError, nearest

if TYPE_CHECKING:
    import h5py
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    from cellmill.matrix.mtx import Entry, MatrixMarket
    from cellmill.matrix.transpose import Entries

GENE_EXPRESSION = "Gene Expression"
_TENX_FILES = frozenset(
    name + suffix for name in ("matrix.mtx", "features.tsv", "genes.tsv", "barcodes.tsv") for suffix in ("", ".gz")
)


@dataclass(frozen=True)
class _Genes:
    """Which column of the result a feature goes to (features,) int32, -1 for none; and the genes that these are."""

    column: np.ndarray
    ids: np.ndarray
    symbols: np.ndarray
    note: str


def convert_tenx_h5(path: Path, out: Path, *, genome: str | None = None) -> str:
    """Write a 10x ``.h5`` matrix as h5ad: gene expression, CSR, sorted, uint16 or uint32.

    Var is indexed by gene id, with a column ``gene_symbols``; obs by barcode as found.
    Cell Ranger's files of version 2 (a group per genome) and from 3 on (a group ``matrix``) are read.
    Both hold cell after cell, so that memory depends on the block and not on the file.
    In a probe matrix, the probes of a gene that pass Cell Ranger's filter are added up, as Cell Ranger does.

    Args:
        path: the file.
        out: the h5ad file to make.
        genome: the one to take of several.

    Returns:
        A sentence on what was left out, or ``""``.

    Raises:
        CellmillError: not such a file, several genomes and none named, no such genome, or values that are no counts.
    """
    import numpy as np
    import scipy.sparse as sp

    from cellmill.matrix.reader import BLOCK_ROWS, BLOCK_VALUES, open_h5ad

    with open_h5ad(path) as file:
        try:
            group, genes = _tenx_genes(path, file, genome)
            barcodes = group["barcodes"].asstr()[:]
            data, indices = group["data"], group["indices"]
            indptr = group["indptr"][:].astype(np.int64)
            lengths = len(data), len(indices), int(indptr[-1])
        except (KeyError, TypeError, AttributeError, IndexError, OSError) as error:
            raise CellmillError(
                path, f"not a whole 10x matrix ({error}).", "Get it again. If it is AnnData, name it .h5ad."
            ) from error
        if len(set(lengths)) != 1 or len(indptr) != len(barcodes) + 1 or np.diff(indptr).min(initial=0) < 0:
            raise CellmillError(path, "its arrays do not fit each other.", "The file is damaged; get it again.")
        n_features = len(genes.column)

        def blocks() -> Iterator[sp.csr_matrix]:
            start = 0
            while start < len(barcodes):
                last = int(np.searchsorted(indptr, indptr[start] + BLOCK_VALUES, side="right")) - 1
                stop = min(max(last, start + 1), start + BLOCK_ROWS, len(barcodes))
                lo, hi = indptr[start], indptr[stop]
                found = _read(path, indices, lo, hi)
                if len(found) and (found.min() < 0 or found.max() >= n_features):
                    raise CellmillError(
                        path,
                        f"a value of cells {start} to {stop} belongs to none of its {n_features} features.",
                        "The file is damaged; get it again.",
                    )
                values = _read(path, data, lo, hi)
                _refuse_no_counts(path, values)
                rows = np.repeat(np.arange(stop - start), np.diff(indptr[start : stop + 1]))
                columns = genes.column[found]
                is_gene = columns >= 0
                entries = (values[is_gene].astype(np.uint64), (rows[is_gene], columns[is_gene]))
                yield _as_counts(path, sp.csr_matrix(entries, shape=(stop - start, len(genes.ids))))
                start = stop

        _write_h5ad(out, blocks, barcodes=barcodes, genes=genes)
    return genes.note


def _read(path: Path, dataset: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    try:
        values: np.ndarray = dataset[start:stop]
        return values
    except OSError as error:
        raise CellmillError(path, f"not readable ({error}).", "The file is damaged; get it again.") from error


def _write_h5ad(
    out: Path, blocks: Callable[[], Iterator[sp.csr_matrix]], *, barcodes: np.ndarray, genes: _Genes
) -> None:
    """In two passes: what the largest count is decides on the type of all."""
    import numpy as np
    import pandas as pd

    from cellmill.files import replacing
    from cellmill.matrix.writer import H5adWriter
    from cellmill.progress import progress

    largest = 0
    with progress(len(barcodes), "cells", "checking") as counter:
        for block in blocks():
            largest = max(largest, int(block.data.max(initial=0)))
            counter.update(block.shape[0])
    dtype = np.dtype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32)
    with replacing(out) as aside, progress(len(barcodes), "cells", "converting") as counter:
        writer = H5adWriter(aside, n_genes=len(genes.ids), dtype=dtype)
        try:
            for block in blocks():
                writer.append(block)
                counter.update(block.shape[0])
            var = pd.DataFrame({"gene_symbols": genes.symbols}, index=pd.Index(genes.ids, name="gene_ids"))
            writer.close(obs=pd.DataFrame(index=pd.Index(barcodes)), var=var, uns={})
        except BaseException:
            writer.abandon()
            raise


def _tenx_genes(path: Path, file: h5py.File, genome: str | None) -> tuple[h5py.Group, _Genes]:
    """The matrix group, and what its features become."""
    import h5py
    import numpy as np

    if "matrix" in file:
        group = file["matrix"]
        features = group["features"]
        probes = "gene_id" in features
        ids, symbols, types = (
            features[k].asstr()[:]
            for k in (("gene_id", "gene_name", "feature_type") if probes else ("id", "name", "feature_type"))
        )
        if len({len(ids), len(symbols), len(types)}) != 1:
            raise CellmillError(path, "its arrays do not fit each other.", "The file is damaged; get it again.")
        genomes = features["genome"].asstr()[:] if "genome" in features else None
        others = np.zeros(len(ids), bool)
        if genomes is not None:
            chosen = _one_genome(path, set(genomes[types == GENE_EXPRESSION]), genome)
            others = (types == GENE_EXPRESSION) & (genomes != chosen) if chosen is not None else others
            ids, symbols = _without_prefix(ids, symbols, others, types, chosen)
        if not probes:
            return group, _gene_expression(path, ids, symbols, types, others)
        passing = features["filtered_probes"][:].astype(bool) if "filtered_probes" in features else ~others
        return group, _probes(_gene_expression(path, ids, symbols, types, others), passing)
    groups = {name: node for name, node in file.items() if isinstance(node, h5py.Group)}
    found = {name for name, node in groups.items() if "barcodes" in node and "genes" in node}
    if not found:
        fix = "Give a 10x matrix (filtered_feature_bc_matrix.h5). If it is AnnData, name it .h5ad."
        raise CellmillError(path, f"not a 10x matrix (there: {', '.join(sorted(file)[:10]) or 'nothing'}).", fix)
    name = _one_genome(path, found, genome)
    group = file[name]
    ids, symbols = group["genes"].asstr()[:], group["gene_names"].asstr()[:]
    if len(ids) != len(symbols):
        raise CellmillError(path, "its arrays do not fit each other.", "The file is damaged; get it again.")
    genes = _gene_expression(path, ids, symbols, np.full(len(ids), GENE_EXPRESSION, object), np.zeros(len(ids), bool))
    left = sorted(found - {name})
    note = f"Left out: the genome{'s' * (len(left) > 1)} {', '.join(left)}." if left else ""
    return group, _Genes(genes.column, genes.ids, genes.symbols, note)


def _one_genome(path: Path, genomes: set[str], genome: str | None) -> str | None:
    """The genome to take; None where the file names none and none is asked for."""
    if genome is not None and genome not in genomes:
        raise CellmillError(path, f"no genome '{genome}' in it (source.genome).", nearest(genome, genomes))
    if genome is None and len(genomes) > 1:
        raise CellmillError(
            path,
            f"several genomes in one file: {', '.join(sorted(genomes))}.",
            "A dataset has one gene space: name one of them in source.genome.",
        )
    return genome if genome is not None else next(iter(genomes), None)


def _without_prefix(
    ids: np.ndarray, symbols: np.ndarray, others: np.ndarray, types: np.ndarray, genome: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and symbols without ``GRCh38_``, which Cell Ranger puts before those of a reference of several genomes."""
    import numpy as np

    mine = (types == GENE_EXPRESSION) & ~others
    prefix = f"{genome}_"
    if not (mine.any() and all(str(i).startswith(prefix) for i in ids[mine])):
        return ids, symbols
    cut = [
        np.array(
            [str(n).removeprefix(prefix).lstrip("_") if m else n for n, m in zip(names, mine, strict=True)], object
        )
        for names in (ids, symbols)
    ]
    return cut[0], cut[1]


def _gene_expression(path: Path, ids: np.ndarray, symbols: np.ndarray, types: np.ndarray, others: np.ndarray) -> _Genes:
    """A gene per feature of the type 'Gene Expression', but for those of ``others`` (features,), of another genome."""
    import collections

    import numpy as np

    kept = np.flatnonzero((types == GENE_EXPRESSION) & ~others)
    left = collections.Counter(str(t) for t in types[types != GENE_EXPRESSION])
    listed = ", ".join(f"{n:,} {name}" for name, n in sorted(left.items()))
    if not len(kept):
        raise CellmillError(path, f"no '{GENE_EXPRESSION}' features (there: {listed or 'none'}).", "Give another file.")
    column = np.full(len(ids), -1, np.int32)
    column[kept] = np.arange(len(kept), dtype=np.int32)
    notes = [f"Left out, as they are no genes: {listed} features."] if left else []
    notes += [f"Left out: {int(others.sum()):,} genes of other genomes."] if others.any() else []
    return _Genes(column, ids[kept], symbols[kept], " ".join(notes))


def _probes(probes: _Genes, passing: np.ndarray) -> _Genes:
    """Probes (a column each) to genes: those that pass, added up by gene id, in the order of a gene's first probe."""
    import numpy as np
    import pandas as pd

    is_probe = probes.column >= 0
    used = is_probe & passing
    gene, ids = pd.factorize(pd.Series(probes.ids[probes.column[used]], dtype=object))
    column = np.full(len(probes.column), -1, np.int32)
    column[used] = gene
    symbols = probes.symbols[probes.column[used]][np.unique(gene, return_index=True)[1]]
    note = f"{int(used.sum()):,} probes added up to {len(ids):,} genes."
    left = int((is_probe & ~passing).sum())
    note += f" Left out, as Cell Ranger leaves them out: {left:,} probes." if left else ""
    return _Genes(column, np.asarray(ids, object), symbols, f"{probes.note} {note}".strip())


def _refuse_no_counts(path: Path, data: np.ndarray) -> None:
    import numpy as np

    bad = np.flatnonzero(~((data >= 0) & (data <= np.iinfo(np.uint32).max) & (data == np.floor(data))))
    if len(bad):
        raise CellmillError(
            path, f"not counts: it holds {data[bad[0]]}.", "Give the matrix of raw counts: whole numbers from 0 on."
        )


def _as_counts(path: Path, matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The same values as uint32 with sorted indices and no stored zeros, entries that stand there twice added up."""
    import numpy as np
    import scipy.sparse as sp

    if not matrix.has_canonical_format:
        matrix = sp.csr_matrix((matrix.data.astype(np.uint64), matrix.indices, matrix.indptr), shape=matrix.shape)
        matrix.sum_duplicates()
        _refuse_no_counts(path, matrix.data)
    matrix.eliminate_zeros()
    return sp.csr_matrix((matrix.data.astype(np.uint32), matrix.indices, matrix.indptr), shape=matrix.shape)


def convert_tenx_folder(folder: Path, out: Path) -> str:
    """Write a 10x matrix folder (``matrix.mtx``, ``features.tsv`` or ``genes.tsv``, ``barcodes.tsv``) as h5ad.

    Each of the three may be gzipped, and the entries may come in any order.
    What does not fit some 100 MB goes through the scratch disk; see ``matrix.transpose``.

    Returns:
        A sentence on what was left out, or ``""``.

    Raises:
        CellmillError: a file is missing or damaged, the three do not fit each other, or values are no counts.
    """
    import zlib

    import numpy as np

    from cellmill.matrix.mtx import MatrixMarket
    from cellmill.matrix.reader import BLOCK_ROWS, BLOCK_VALUES
    from cellmill.matrix.transpose import count_rows, room_for, rows_of, sorted_into_buckets

    def one_of(*names: str) -> Path:
        found = [folder / (n + suffix) for n in names for suffix in (".gz", "") if (folder / (n + suffix)).is_file()]
        if not found:
            raise CellmillError(folder, f"no {' or '.join(names)}[.gz].", "Give the whole folder that 10x makes.")
        return found[0]

    files = one_of("matrix.mtx"), one_of("features.tsv", "genes.tsv"), one_of("barcodes.tsv")
    try:
        features, barcodes = _names(files[1]), _names(files[2])
        with MatrixMarket(files[0]) as matrix:
            if matrix.shape != (len(features), len(barcodes)):
                raise CellmillError(
                    folder,
                    f"the matrix has {matrix.shape[0]} rows and {matrix.shape[1]} columns, "
                    f"but there are {len(features)} features and {len(barcodes)} barcodes.",
                    "The files are not of one run; get them again.",
                )
            ids = features[0].to_numpy(object)
            symbols = features[1].to_numpy(object) if features.shape[1] > 1 else ids
            types = (
                features[2].to_numpy(object) if features.shape[1] > 2 else np.full(len(ids), GENE_EXPRESSION, object)
            )
            genes = _gene_expression(folder, ids, symbols, types, np.zeros(len(ids), bool))
            per_cell = np.zeros(len(barcodes), np.int64)
            with room_for(matrix.n_entries, beside=out, shown=folder) as entries:
                n, before, in_order = 0, -1, True
                for features_, cells, values in _counted(matrix):
                    _refuse_no_counts(folder, values)
                    columns = genes.column[features_]
                    is_gene = columns >= 0
                    cells, columns, values = cells[is_gene], columns[is_gene], values[is_gene]
                    entries.write(n, (cells, columns, values.astype(np.uint32)))
                    count_rows(cells, per_cell)
                    if len(cells):
                        in_order = in_order and cells[0] >= before and not (np.diff(cells) < 0).any()
                        n, before = n + len(cells), cells[-1]

                @contextmanager
                def by_cell() -> Iterator[Entries]:
                    if in_order:
                        yield entries
                        return
                    with sorted_into_buckets(entries.slabs(n), per_cell, beside=out, shown=folder) as buckets:
                        yield buckets

                with by_cell() as there:

                    def blocks() -> Iterator[sp.csr_matrix]:
                        cut = {"max_rows": BLOCK_ROWS, "max_values": BLOCK_VALUES}
                        for _, block in rows_of(there, per_cell, len(genes.ids), **cut):
                            yield _as_counts(folder, block)

                    _write_h5ad(out, blocks, barcodes=barcodes[0].to_numpy(object), genes=genes)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise CellmillError(folder, f"not readable ({error}).", "It may be truncated; get it again.") from error
    return genes.note


def _counted(matrix: MatrixMarket) -> Iterator[Entry]:
    """The entries of a matrix, with progress."""
    from cellmill.progress import progress

    with progress(matrix.n_entries, "values", "reading") as counter:
        for slab in matrix.slabs():
            yield slab
            counter.update(len(slab[0]))


def _names(path: Path) -> pd.DataFrame:
    """A table of names, as text: a gene or cell may be called NA."""
    import csv

    import pandas as pd

    return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)


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
