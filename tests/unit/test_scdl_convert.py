"""`cellmill convert`: h5ad files to one archive, which BioNeMo-SCDL opens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmill.cli import main
from cellmill.scdl import SingleCellMemMapDataset
from cellmill.scdl.archive import ScdlError, open_arrays
from cellmill.scdl.convert import Options, convert, convert_each, find_files, look
from cellmill.scdl.writer import GrowingArray, smallest_dtype

from .export_rows import digests
from .scdl_files import make_adata, neighbor_sample, random_counts, theirs


def write(path: Path, x: Any, **kwargs: Any) -> Path:
    """An h5ad file named like its cells and genes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make_adata(x, name=path.stem, raw=False, **kwargs).write_h5ad(path, compression="gzip")
    return path


def converted(paths: list[Path], out: Path, **options: Any) -> dict[str, Any]:
    """Look and convert."""
    asked = Options(**options)
    return convert(look(paths, asked), out, asked)


@pytest.fixture(scope="module")
def thirteen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """13 files with different genes, of which two in a row have the same, and their archive."""
    folder = tmp_path_factory.mktemp("thirteen")
    paths = []
    for i in range(13):
        genes = 20 + (i if i != 8 else 7)
        adata = make_adata(random_counts(5 + i, genes, 40, seed=i, high=300), name=f"f{i}", raw=False)
        if i == 8:
            adata.var = anndata.read_h5ad(paths[7]).var
        if i in (3, 11):
            adata.obsp["next_cell_ids"] = sp.random(5 + i, 5 + i, 0.3, "csr", random_state=i)
        paths.append(folder / f"f{i}.h5ad")
        adata.write_h5ad(paths[-1])
    said = converted(paths, folder / "archive", threads=2)
    assert (said["files"], said["gene_blocks"], said["cells"], said["values"]) == (13, 12, 143, 520)
    assert (said["neighbors"] > 0, said["cells_without_neighbors"]) == (True, 143 - 8 - 16)
    return folder / "archive", paths


@pytest.mark.parametrize("library", ["cellmill", "bionemo"])
def test_thirteen_files_with_different_genes_stay_aligned(thirteen: tuple[Path, list[Path]], library: str) -> None:
    """Every value, gene, cell id and obs value of every cell, with either library, in the order of the files."""
    archive, paths = thirteen
    dataset = SingleCellMemMapDataset(archive) if library == "cellmill" else theirs()(str(archive))
    assert dataset.number_of_variables() == [20 + i for i in range(13) if i != 8]
    row = 0
    for path in paths:
        adata = anndata.read_h5ad(path)
        for i in range(adata.n_obs):
            (values, columns), var, obs = dataset.get_row(row, True, None, True, None)
            genes, symbols = adata.var_names, adata.var["feature_name"]
            assert dict(zip(genes[columns], values.tolist(), strict=True)) == _counts(adata, i)
            assert [c.tolist() for c in var] == [symbols.tolist(), genes.tolist()]
            cell_type = adata.obs["cell_type"].iloc[i]
            assert obs == [None if pd.isna(cell_type) else cell_type, i / 2, i, adata.obs_names[i]]
            row += 1
    assert row == len(dataset)


def _counts(adata: anndata.AnnData, row: int) -> dict[str, float]:
    counts = adata.X[row].tocoo()
    return dict(zip(adata.var_names[counts.col], counts.data.tolist(), strict=True))


def test_neighbours_of_files_are_numbered_over_the_archive(thirteen: tuple[Path, list[Path]]) -> None:
    """Those of the files that have some, at the rows of those files."""
    archive, paths = thirteen
    dataset, first = SingleCellMemMapDataset(archive, load_neighbors=True), 0
    for path in paths:
        adata = anndata.read_h5ad(path)
        links = adata.obsp["next_cell_ids"] if "next_cell_ids" in adata.obsp else sp.csr_matrix((adata.n_obs,) * 2)
        for i in range(adata.n_obs):
            assert dataset.get_neighbor_indices_for_cell(first + i).tolist() == (links[i].indices + first).tolist()
            assert np.allclose(dataset.get_neighbor_weights_for_cell(first + i), links[i].data)
        first += adata.n_obs


def test_the_bytes_do_not_depend_on_threads_or_blocks(
    thirteen: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread or more, small blocks or large ones."""
    from cellmill.matrix import reader

    archive, paths = thirteen
    monkeypatch.setattr(reader, "BLOCK_VALUES", 7)
    converted(paths, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(archive)


@pytest.mark.filterwarnings("ignore:.*zarr.*")
@pytest.mark.parametrize("layout", ["csr", "csc", "dense", "unsorted", "zeros", "zarr"])
def test_every_layout_is_read(tmp_path: Path, layout: str) -> None:
    """Square matrices, too, which SCDL transposes when they are CSC; stored zeros are left out."""
    counts = random_counts(9, 9, 30, seed=1)
    x: Any = {"csc": counts.tocsc(), "dense": counts.toarray()}.get(layout, counts.copy())
    if layout == "unsorted":
        for lo, hi in zip(x.indptr, x.indptr[1:], strict=False):
            x.indices[lo:hi], x.data[lo:hi] = x.indices[lo:hi][::-1].copy(), x.data[lo:hi][::-1].copy()
        x.has_sorted_indices = False
    if layout == "zeros":
        x.data[:4] = 0
        counts = x.copy()
    path = write(tmp_path / "a.h5ad", x)
    if layout == "zarr":
        path = tmp_path / "a.zarr"
        with anndata.settings.override(zarr_write_format=3):
            anndata.read_h5ad(tmp_path / "a.h5ad").write_zarr(path)
    said = converted(find_files([path]), tmp_path / "a")
    dataset = SingleCellMemMapDataset(tmp_path / "a")
    assert np.array_equal([dataset.get_row_padded(i)[0] for i in range(9)], counts.toarray())
    assert said["values"] == np.count_nonzero(counts.toarray())
    assert all((np.diff(dataset.get_row(i)[0][1].astype(int)) > 0).all() for i in range(9))


def test_types_are_chosen_by_the_data(tmp_path: Path) -> None:
    """Over all files; a large count in the last block widens what is there, fractions are float32 if that is exact."""
    small, large = random_counts(4, 300, 50, seed=0), random_counts(4, 10, 20, seed=1)
    large.data[-1] = 70_000
    paths = [write(tmp_path / "small.h5ad", small), write(tmp_path / "large.h5ad", large)]
    assert converted(paths[:1], tmp_path / "1")["dtypes"] == {"DATA": "uint8", "ROWPTR": "uint8", "COLPTR": "uint16"}
    assert converted(paths, tmp_path / "2")["dtypes"] == {"DATA": "uint32", "ROWPTR": "uint8", "COLPTR": "uint16"}
    assert open_arrays(tmp_path / "2").data.tolist() == [*small.data, *large.data]
    assert converted(paths, tmp_path / "3", data_dtype="float32")["dtypes"]["DATA"] == "float32"
    for name, x in (("float32", (small / 4).astype(np.float32)), ("float64", small.astype(np.float64) / 3)):
        said = converted([write(tmp_path / f"{name}.h5ad", x)], tmp_path / name)
        assert said["dtypes"]["DATA"] == name
        assert open_arrays(tmp_path / name).data.tolist() == x.data.tolist()
    negative = small.astype(np.float32)
    negative.data[3] = -2
    assert converted([write(tmp_path / "n.h5ad", negative)], tmp_path / "n")["dtypes"]["DATA"] == "float32"
    assert not list(tmp_path.rglob("data.npy.*"))


def test_raw_is_taken_where_it_is_and_layers_by_name(tmp_path: Path) -> None:
    """Each with its own genes."""
    adata = make_adata(random_counts(6, 8, 20, seed=0))
    adata = adata[:, :5].copy()
    adata.layers["spliced"] = adata.X * 2
    adata.write_h5ad(tmp_path / "a.h5ad")
    for matrix, genes in (("auto", 8), ("raw", 8), ("X", 5), ("layers/spliced", 5)):
        assert look([tmp_path / "a.h5ad"], Options(matrix=matrix))[0].n_genes == genes
    with pytest.raises(ScdlError, match=r"a\.h5ad: it has no matrix 'layers/splice'\..*Did you mean 'layers/spliced'"):
        look([tmp_path / "a.h5ad"], Options(matrix="layers/splice"))


def test_obs_columns_of_several_files_become_alike(tmp_path: Path) -> None:
    """The same columns in another order and type are one block; other columns are another."""
    columns = [
        {"a": [1, 2], "b": ["x", None], "c": pd.Categorical([None, None])},
        {"b": [True, False], "a": [0.5, np.nan], "c": ["y", "z"]},
        {"d": [1, 2]},
    ]
    paths = []
    for i, obs in enumerate(columns):
        adata = anndata.AnnData(random_counts(2, 4, 5, seed=i), pd.DataFrame(obs, index=[f"{i}-0", f"{i}-1"]))
        paths.append(tmp_path / f"{i}.h5ad")
        adata.write_h5ad(paths[-1])
    converted(paths, tmp_path / "out")
    for dataset in (SingleCellMemMapDataset(tmp_path / "out"), theirs()(str(tmp_path / "out"))):
        assert dataset.obs_features().column_dims() == [4, 2]
        rows = [dataset.get_row(i, False, None, True, ["a", "b", "c"])[2] for i in range(4)]
        assert rows[:3] == [[1.0, "x", None], [2.0, None, None], [0.5, "true", "y"]]
        assert np.isnan(rows[3][0])
        assert rows[3][1:] == ["false", "z"]
        assert dataset.get_row(5, False, None, True)[2] == [2, "2-1"]


def test_an_empty_file_among_others_is_no_matter(tmp_path: Path) -> None:
    """Cells without a value, no cell at all; but there is no archive without a value."""
    empty = sp.csr_matrix((3, 4), dtype=np.float32)
    nobody = write(tmp_path / "nobody.h5ad", sp.csr_matrix((0, 4), dtype=np.float32))
    paths = [write(tmp_path / "empty.h5ad", empty), nobody, write(tmp_path / "a.h5ad", random_counts(2, 4, 5, seed=0))]
    assert converted(paths, tmp_path / "out")["cells"] == 5
    assert theirs()(str(tmp_path / "out")).shape()[0] == 5
    with pytest.raises(ScdlError, match="there is no value in any file, and SCDL cannot map an empty file"):
        converted(paths[:2], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def damage_neighbors(path: Path) -> None:
    """A neighbour that is no cell."""
    with h5py.File(path, "r+") as file:
        file["obsp/next_cell_ids/indices"][0] = 8


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data_dtype": "int8"}, "there is no type 'int8'"),
        ({"neighbors": "distances"}, r"obsp has no 'distances'\. There: dense, next_cell_ids"),
        ({"neighbors": "dense"}, r"obsp/dense is dense of 8 × 8, expected a CSR matrix of 8 × 8"),
        ({"matrix": "counts"}, "it has no matrix 'counts'"),
        ({"var_index": "feature_name"}, "the column 'feature_name' is not the index"),
        ({"obs_index": "n"}, "the column 'n' is not the index"),
    ],
)
def test_what_can_be_seen_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    """By a look at the tables."""
    path = neighbor_sample(tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        file["obsp/dense"] = np.zeros((8, 8))
    with pytest.raises(ScdlError, match=match):
        look([path], Options(**options))


def test_what_is_seen_later_leaves_nothing(tmp_path: Path) -> None:
    """NaN, fractions beside counts, a damaged neighbour: named, and the old archive stays."""
    counts = random_counts(4, 5, 9, seed=0)
    nan = counts.copy()
    nan.data[4] = np.nan
    good, bad = write(tmp_path / "good.h5ad", counts), write(tmp_path / "bad.h5ad", nan)
    half = write(tmp_path / "half.h5ad", counts / 2)
    links = neighbor_sample(tmp_path / "links.h5ad")
    damage_neighbors(links)
    converted([good], tmp_path / "out")
    before = digests(tmp_path / "out")
    for paths, match in (
        ([good, bad], r"bad\.h5ad: X has nan at cell 'bad-cell\d' \(row \d\), gene 'ENSG-bad-\d'"),
        ([good, half], r"half\.h5ad: its matrix is no counts, and that of .*good\.h5ad is"),
        ([links], r"obsp/next_cell_ids names a cell outside of 8"),
    ):
        options = Options()
        with pytest.raises(ScdlError, match=match):
            convert(look(paths, options), tmp_path / "out", options, force=True)
        assert digests(tmp_path / "out") == before
    with pytest.raises(ScdlError, match=r"half\.h5ad, rows from 0: value .* which uint8 cannot hold"):
        converted([half], tmp_path / "new", data_dtype="uint8")
    with pytest.raises(FileExistsError, match="it is already there"):
        converted([good], tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir() if p.suffix != ".h5ad"} == {"out"}


def test_folders_are_searched_and_no_file_comes_twice(tmp_path: Path) -> None:
    """Sorted by path below each folder."""
    files = [write(tmp_path / name, random_counts(2, 3, 4, seed=0)) for name in ("in/b.h5ad", "in/sub/a.h5ad")]
    assert find_files([tmp_path / "in"]) == files
    with pytest.raises(ScdlError, match=r"b\.h5ad: this file is named twice"):
        find_files([tmp_path / "in", files[0]])
    with pytest.raises(ScdlError, match="there is no such file or folder"):
        find_files([tmp_path / "no"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScdlError, match="there is no h5ad file in this folder"):
        find_files([tmp_path / "empty"])


def test_an_archive_per_file(tmp_path: Path) -> None:
    """Of the names of the files, which must differ."""
    files = [write(tmp_path / name, random_counts(2, 3, 4, seed=0)) for name in ("x/a.h5ad", "x/b.h5ad", "y/a.h5ad")]
    options = Options()
    said = convert_each(look(files[:2], options), tmp_path / "out", options)
    assert [Path(name).name for name in said] == ["a", "b"]
    assert len(SingleCellMemMapDataset(tmp_path / "out/b")) == 2
    with pytest.raises(FileExistsError, match="out/b: it is already there"):
        convert_each(look(files[1:2], options), tmp_path / "out", options)
    with pytest.raises(ScdlError, match=r"y/a\.h5ad: it has the name of .*x/a\.h5ad"):
        convert_each(look(files, options), tmp_path / "out2", options)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Says what it finds and what it wrote; a dry run writes nothing, and errors are sentences."""
    monkeypatch.chdir(tmp_path)
    neighbor_sample(tmp_path / "in/a.h5ad")
    write(tmp_path / "in/b.h5ad", random_counts(6, 300, 40, seed=0).toarray())
    assert main(["convert", "in", "-o", "out", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "in/a.h5ad: raw, 8 cells × 10 genes, 5 values, neighbours of obsp/next_cell_ids",
        "in/b.h5ad: X, 6 cells × 300 genes, dense",
        "out: nothing was written (--dry-run).",
    ]
    assert os.listdir() == ["in"]
    assert main(["convert", "in", "-o", "out"]) == 0
    size = sum(p.stat().st_size for p in Path("out").rglob("*") if p.is_file()) / 1000
    assert capsys.readouterr().out.splitlines()[2:] == [
        f"out: 14 cells, 45 values, genes in 2 blocks, {size:.1f} kB (DATA uint8, ROWPTR uint8, COLPTR uint16)",
        "out: 29 neighbours; 6 cells are of files that have none",
    ]
    assert SingleCellMemMapDataset("out").var_features().lookup(0)[1] == "in/a.h5ad"
    assert main(["convert", "in", "-o", "out"]) == 1
    assert capsys.readouterr().err.startswith("out: it is already there. Delete it")
    assert main(["convert", "in", "-o", "out", "--force", "--each", "--neighbors", "none", "--threads", "0"]) == 1
    assert "--threads: found 0, expected 1 or more" in capsys.readouterr().err
    assert main(["convert", "in", "-o", "each", "--each", "--neighbors", "none", "--matrix", "X"]) == 0
    assert sorted(os.listdir("each")) == ["a", "b"]
    assert not list(Path("each").rglob("neighbor*"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0, 1, 255, 256, 65_536, 0.5, 1 / 3, -1.0, 3e9]), max_size=4), max_size=5))
def test_a_growing_array_holds_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[float]]
) -> None:
    """Whatever comes after whatever, in the type that all of it needs."""
    path = tmp_path_factory.mktemp("growing") / "a"
    array = GrowingArray(path)
    dtype = np.dtype(np.uint8)
    for part in parts:
        whole = all(v >= 0 and v == int(v) for v in part)
        values = np.array(part, np.uint32 if whole else np.float64)
        array.append(values)
        dtype = np.promote_types(dtype, smallest_dtype(values)) if part else dtype
    array.close()
    assert np.fromfile(path, array.dtype).tolist() == [v for part in parts for v in part]
    assert array.dtype == dtype
