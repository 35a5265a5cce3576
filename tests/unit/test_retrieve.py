"""Retrieving a part: each kind of source, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.io
import scipy.sparse as sp

import cellmill
from cellmill.errors import CellmillError
from cellmill.sources import Bundled, Files, Source
from cellmill.sources.bundled import recover_counts
from cellmill.sources.retrieve import retrieve_part
from cellmill.sources.tenx import convert_tenx_folder, convert_tenx_h5

ADDRESS = "https://example.org/atlas"


@pytest.fixture
def ledger(repo: Path) -> Path:
    return repo / "resources" / "ledger.tsv"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results" / "blood" / "raw" / "a.h5ad"


def retrieve(source: Source, out: Path, ledger: Path, mirror: Path | None = None) -> dict[str, Any]:
    provenance = out.with_name("provenance.json")
    retrieve_part(source, source.parts()[0], out, provenance, ledger=ledger, mirror=mirror)
    found: dict[str, Any] = json.loads(provenance.read_text())
    return found


def files(where: str | Path, **changes: Any) -> Files:
    return Files(files={"a": str(where)}, **changes)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_mirror(folder: Path, **contents: bytes) -> Path:
    """A mirror with files of these names (with ``_`` for ``.``)."""
    folder.mkdir(exist_ok=True)
    named = {name.replace("_", "."): content for name, content in contents.items()}
    for name, content in named.items():
        (folder / name).write_bytes(content)
    (folder / "SHA256SUMS").write_text("".join(f"{sha256(c)}  {name}\n" for name, c in named.items()))
    return folder


@pytest.fixture
def h5ad(tmp_path: Path) -> Path:
    path = tmp_path / "given" / "cells.h5ad"
    path.parent.mkdir()
    anndata.AnnData(sp.csr_matrix(np.eye(3, dtype=np.float32))).write_h5ad(path)
    return path


def write_tenx(path: Path, *, types: list[str], genomes: list[str], value: float = 1) -> Path:
    """A 10x file as of Cell Ranger 3, of two cells: the first has ``value`` of every feature, the second nothing."""
    n = len(types)
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array([b"AAA-1", b"CCC-1"])
        matrix["data"] = np.full(n, value)
        matrix["indices"], matrix["indptr"], matrix["shape"] = np.arange(n)[::-1], [0, n, n], [n, 2]
        for name, values in {"feature_type": types, "genome": genomes}.items():
            matrix[f"features/{name}"] = np.array(values, "S")
        matrix["features/id"] = np.array([f"ENSG{i}" for i in range(n)], "S")
        matrix["features/name"] = np.array([f"GENE{i}" for i in range(n)], "S")
    return path


def write_folder(folder: Path, matrix: sp.coo_matrix, features: str, *, zipped: bool) -> Path:
    """A matrix folder, features by cells, with these lines of features."""
    folder.mkdir(parents=True)
    text = io.BytesIO()
    scipy.io.mmwrite(text, matrix)
    barcodes = "".join(f"CELL{i}-1\n" for i in range(matrix.shape[1]))
    for name, content in {
        "matrix.mtx": text.getvalue(),
        "features.tsv" if zipped else "genes.tsv": features.encode(),
        "barcodes.tsv": barcodes.encode(),
    }.items():
        (folder / (name + ".gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.fixture
def mtx(tmp_path: Path) -> Path:
    features = "ENSG0\tNA\tGene Expression\nENSG1\tB\tGene Expression\nCD3\tCD3\tAntibody Capture\n"
    counts = sp.coo_matrix(np.array([[0, 2], [70_000, 0], [5, 5]]))
    return write_folder(tmp_path / "given" / "matrix", counts, features, zipped=True)


def pack(path: Path, *folders: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for folder in folders:
            tar.add(folder, f"run/{folder.name}")
    return path


# Bundled


def test_bundled_counts_are_those_that_were_packaged(out: Path, ledger: Path, shared_data: Path) -> None:
    """The recovered counts equal an independent recovery, cell by cell and gene by gene."""
    facts = retrieve(Bundled(name="pbmc68k_reduced"), out, ledger)
    found = anndata.read_h5ad(out)
    expected = anndata.read_h5ad(shared_data / "derived" / "pbmc68k_recovered_counts_700.h5ad")
    assert (found.X != expected.X).nnz == 0
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert found.var_names.equals(expected.var_names)
    assert facts["package"].startswith("scanpy ")


def test_bundled_counts_are_sorted_small_integers(out: Path, ledger: Path) -> None:
    """CSR, uint16, int32 indices in order: what the reader of parts likes best."""
    retrieve(Bundled(name="pbmc68k_reduced"), out, ledger)
    x = anndata.read_h5ad(out).X
    assert (x.format, x.data.dtype, x.indices.dtype) == ("csr", np.uint16, np.int32)
    assert x.has_sorted_indices and x.data.all()


def test_a_packaged_file_that_holds_no_counts_is_refused(tmp_path: Path) -> None:
    """Counts are proven, not assumed."""
    raw = anndata.AnnData(np.full((2, 2), 0.5, np.float32), obs=pd.DataFrame({"n_counts": [5000.0, 5000]}, ["a", "b"]))
    raw.raw = raw
    raw.write_h5ad(tmp_path / "packaged.h5ad")
    with pytest.raises(CellmillError, match="no raw counts can be recovered"):
        recover_counts(tmp_path / "packaged.h5ad", tmp_path / "out.h5ad")
    assert not (tmp_path / "out.h5ad").exists()


# Local files


def test_a_local_h5ad_is_linked_and_not_copied(h5ad: Path, out: Path, ledger: Path) -> None:
    """A relative link, so that the whole tree can be moved."""
    facts = retrieve(files(h5ad), out, ledger)
    assert out.samefile(h5ad)
    assert out.is_symlink() and not out.readlink().is_absolute()
    assert facts == {
        "contract": "raw 1",
        "kind": "files",
        "part": "a",
        "path": str(h5ad),
        "sha256": None,
        "bytes": h5ad.stat().st_size,
        "note": "A link to the file itself.",
    }


def test_a_link_holds_where_results_are_a_link_themselves(h5ad: Path, out: Path, ledger: Path, tmp_path: Path) -> None:
    """Results on another disk are common on clusters."""
    (tmp_path / "scratch" / "deep" / "down").mkdir(parents=True)
    (tmp_path / "results").symlink_to(tmp_path / "scratch" / "deep" / "down")
    retrieve(files(h5ad), out, ledger)
    assert out.samefile(h5ad)


def test_a_relative_path_is_relative_to_the_working_folder(
    h5ad: Path, out: Path, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Snakemake sees it."""
    monkeypatch.chdir(h5ad.parent)
    assert retrieve(files("cells.h5ad"), out, ledger)["path"] == "cells.h5ad"
    assert out.samefile(h5ad)


def test_a_file_is_never_replaced_by_a_link_to_itself(h5ad: Path, ledger: Path) -> None:
    """Raw data that someone keeps in results/ survive."""
    content = h5ad.read_bytes()
    with pytest.raises(CellmillError, match="about to write"):
        retrieve_part(files(h5ad), "a", h5ad, h5ad.with_name("p.json"), ledger=ledger, mirror=None)
    assert h5ad.read_bytes() == content


def test_a_known_checksum_of_a_local_file_is_verified(h5ad: Path, out: Path, ledger: Path) -> None:
    """The right one passes and is written down, a wrong one is refused."""
    right = sha256(h5ad.read_bytes())
    assert retrieve(files(h5ad, sha256={"a": right}), out, ledger)["sha256"] == right
    with pytest.raises(CellmillError, match=f"its sha256 is {right}, expected {'0' * 64}"):
        retrieve(files(h5ad, sha256={"a": "0" * 64}), out, ledger)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "not a whole, readable HDF5 file"),
        (lambda path: path.write_bytes(b"<html>login</html>"), "not a whole, readable HDF5 file"),
        (lambda path: h5py.File(path, "w").close(), "no obs, var, X in it"),
        (lambda path: write_tenx(path, types=["Gene Expression"], genomes=["g"]), r"name it \.h5"),
        (lambda path: path.unlink(), "no file"),
    ],
    ids=["truncated", "web page", "empty", "10x", "missing"],
)
def test_what_is_no_h5ad_is_refused(change: Any, message: str, h5ad: Path, out: Path, ledger: Path) -> None:
    """Truncated, a web page, empty, of another kind, missing."""
    change(h5ad)
    with pytest.raises(CellmillError, match=message):
        retrieve(files(h5ad), out, ledger)
    assert not os.path.lexists(out)


def test_a_real_truncated_file_is_refused(out: Path, ledger: Path, shared_data: Path) -> None:
    """A public one that others test with, too."""
    with pytest.raises(CellmillError, match="truncated"):
        retrieve(files(shared_data / "edge" / "truncated.h5"), out, ledger)


def test_an_unreadable_kind_gets_the_list_of_readable_ones(out: Path, ledger: Path, tmp_path: Path) -> None:
    """By the end of its name."""
    (tmp_path / "cells.loom").touch()
    with pytest.raises(CellmillError, match=r"cells\.loom.*Readable are \.h5ad, \.h5ad\.gz, \.h5, \.tar\.gz"):
        retrieve(files(tmp_path / "cells.loom"), out, ledger)


def test_a_gzipped_h5ad_is_decompressed(h5ad: Path, out: Path, ledger: Path, tmp_path: Path) -> None:
    """To the same bytes; a truncated one is refused."""
    zipped = tmp_path / "cells.h5ad.gz"
    zipped.write_bytes(gzip.compress(h5ad.read_bytes()))
    retrieve(files(zipped), out, ledger)
    assert out.read_bytes() == h5ad.read_bytes()
    zipped.write_bytes(zipped.read_bytes()[:-100])
    with pytest.raises(CellmillError, match=r"cells\.h5ad\.gz: not whole gzip"):
        retrieve(files(zipped), out, ledger)


# 10x


@pytest.mark.parametrize("name", ["v1_filtered_chr21.h5", "v3_filtered_chr21.h5", "visium_mouse_100genes.h5"])
def test_a_10x_h5_reads_as_scanpy_reads_it(name: str, out: Path, ledger: Path, shared_data: Path) -> None:
    """Same counts, same cells, same genes; named by gene id here."""
    retrieve(files(shared_data / "tenx" / name), out, ledger)
    found = anndata.read_h5ad(out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = scanpy.read_10x_h5(shared_data / "tenx" / name)
    assert (found.X != expected.X).nnz == 0
    assert list(found.obs_names) == list(expected.obs_names)
    assert list(found.var_names) == list(expected.var["gene_ids"])
    assert list(found.var["gene_symbols"]) == list(expected.var_names)


@pytest.mark.parametrize("name", ["v3_mtx_chr21", "visium_mouse_mtx_2898"])
def test_a_10x_folder_reads_as_scanpy_reads_it(name: str, out: Path, ledger: Path, shared_data: Path) -> None:
    """Same counts, same cells, same genes, from the folder and from an archive of it."""
    folder = shared_data / "tenx" / name
    retrieve(files(folder), out, ledger)
    found = anndata.read_h5ad(out)
    expected = scanpy.read_10x_mtx(folder, var_names="gene_ids", make_unique=False)
    assert (found.X != expected.X).nnz == 0
    assert found.obs_names.equals(expected.obs_names)
    pd.testing.assert_frame_equal(found.var, expected.var[["gene_symbols"]], check_names=False)


def test_10x_bytes_do_not_depend_on_the_block(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same file in, same bytes out, for any number of rows in memory."""
    path = shared_data / "tenx" / "v3_filtered_chr21.h5"
    convert_tenx_h5(path, tmp_path / "whole.h5ad")
    monkeypatch.setattr("cellmill.matrix.reader.BLOCK_ROWS", 100)
    monkeypatch.setattr("cellmill.matrix.reader.BLOCK_VALUES", 500)
    convert_tenx_h5(path, tmp_path / "blocks.h5ad")
    assert (tmp_path / "whole.h5ad").read_bytes() == (tmp_path / "blocks.h5ad").read_bytes()


def test_features_that_are_no_genes_are_left_out_and_counted(out: Path, ledger: Path, tmp_path: Path) -> None:
    """Antibodies and guides do not become genes, and the note says how many there were."""
    types = ["Gene Expression", "Antibody Capture", "Gene Expression", "CRISPR Guide Capture", "Antibody Capture"]
    path = write_tenx(tmp_path / "cite.h5", types=types, genomes=["g", "", "g", "", ""], value=300)
    facts = retrieve(files(path), out, ledger)
    found = anndata.read_h5ad(out)
    assert list(found.var_names) == ["ENSG0", "ENSG2"]
    assert found.X.toarray().tolist() == [[300, 300], [0, 0]]
    assert facts["note"] == "Left out, as they are no genes: 2 Antibody Capture, 1 CRISPR Guide Capture features."


def test_several_genomes_in_one_file_are_refused(out: Path, ledger: Path, tmp_path: Path, shared_data: Path) -> None:
    """In both generations of the format."""
    new = write_tenx(tmp_path / "new.h5", types=["Gene Expression"] * 2, genomes=["GRCh38", "mm10"])
    for path, names in ((shared_data / "tenx" / "v1_multiple_genomes.h5", "another_genome"), (new, "GRCh38, mm10")):
        with pytest.raises(CellmillError, match=f"several genomes in one file: {names}"):
            retrieve(files(path), out, ledger)


def test_probes_are_added_up_to_genes(out: Path, ledger: Path, shared_data: Path) -> None:
    """Those that pass Cell Ranger's filter; test_shared_files compares the counts."""
    facts = retrieve(files(shared_data / "tenx" / "probe_raw_mouse.h5"), out, ledger)
    assert facts["note"] == ("682 probes added up to 671 genes. Left out, as Cell Ranger leaves them out: 318 probes.")
    found = anndata.read_h5ad(out)
    assert found.var_names.is_unique and found.var_names.str.match("ENSMUSG").all()
    assert found.var.loc["ENSMUSG00000003038", "gene_symbols"] == "Hmgn2"


@pytest.mark.parametrize("value", [0.5, -1, np.nan, 2.0**32])
def test_10x_values_that_are_no_counts_are_refused(value: float, out: Path, ledger: Path, tmp_path: Path) -> None:
    """Corrected values come in 10x files, too."""
    path = write_tenx(tmp_path / "x.h5", types=["Gene Expression"], genomes=["g"], value=value)
    with pytest.raises(CellmillError, match="not counts"):
        retrieve(files(path), out, ledger)
    assert not out.exists()


def test_an_h5_that_is_no_10x_matrix_is_refused(h5ad: Path, out: Path, ledger: Path) -> None:
    """With a hint at the right name."""
    with pytest.raises(CellmillError, match=r"not a 10x matrix.*name it \.h5ad"):
        retrieve(files(h5ad.rename(h5ad.with_suffix(".h5"))), out, ledger)


def test_an_archive_gives_the_bytes_of_its_folder(mtx: Path, out: Path, ledger: Path, tmp_path: Path) -> None:
    """Unpacked aside, and nothing left there; a gene may be called NA, and a count exceed 16 bits."""
    convert_tenx_folder(mtx, tmp_path / "folder.h5ad")
    archive = pack(tmp_path / "matrix.tar.gz", mtx)
    facts = retrieve(files(archive), out, ledger)
    assert out.read_bytes() == (tmp_path / "folder.h5ad").read_bytes()
    assert sorted(p.name for p in out.parent.iterdir()) == ["a.h5ad", "provenance.json"]
    found = anndata.read_h5ad(out)
    assert found.X.toarray().tolist() == [[0, 70_000], [2, 0]]
    assert list(found.var["gene_symbols"]) == ["NA", "B"]
    assert facts["note"] == "Left out, as they are no genes: 1 Antibody Capture features."


def test_an_old_folder_without_feature_types_is_read(out: Path, ledger: Path, tmp_path: Path) -> None:
    """Cell Ranger 2: genes.tsv, nothing gzipped."""
    counts = sp.coo_matrix(np.array([[1, 2], [0, 3]]))
    folder = write_folder(tmp_path / "hg19", counts, "ENSG0\tA\nENSG1\tB\n", zipped=False)
    assert retrieve(files(folder), out, ledger)["note"] == ""
    assert anndata.read_h5ad(out).X.toarray().tolist() == [[1, 0], [2, 3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mtx: (mtx / "barcodes.tsv.gz").unlink(), r"no barcodes\.tsv"),
        (lambda mtx: (mtx / "matrix.mtx.gz").write_bytes((mtx / "matrix.mtx.gz").read_bytes()[:30]), "not readable"),
        (lambda mtx: (mtx / "barcodes.tsv.gz").write_bytes(gzip.compress(b"A\n")), r"2 columns, .* 1 barcodes"),
    ],
    ids=["missing", "truncated", "of another run"],
)
def test_a_damaged_folder_is_refused(change: Any, message: str, mtx: Path, out: Path, ledger: Path) -> None:
    """Missing, truncated, or not of one run."""
    change(mtx)
    with pytest.raises(CellmillError, match=message):
        retrieve(files(mtx), out, ledger)
    assert not out.exists()


def test_an_archive_of_several_matrices_is_refused(mtx: Path, out: Path, ledger: Path, tmp_path: Path) -> None:
    """Nothing is guessed; both folders are named."""
    other = shutil.copytree(mtx, tmp_path / "mm10")
    with pytest.raises(CellmillError, match=r"2 folders with a matrix\.mtx: run/matrix, run/mm10"):
        retrieve(files(pack(tmp_path / "two.tar.gz", mtx, other)), out, ledger)


def test_a_truncated_archive_is_refused(mtx: Path, out: Path, ledger: Path, tmp_path: Path) -> None:
    """Even if its first members are whole."""
    archive = pack(tmp_path / "matrix.tar.gz", mtx)
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(CellmillError, match="cannot be unpacked"):
        retrieve(files(archive), out, ledger)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../../evil", tarfile.REGTYPE, "points outside this folder"),
        ("/etc/evil", tarfile.REGTYPE, "points outside this folder"),
        ("run/matrix/link", tarfile.SYMTYPE, "is a link or a device"),
        ("run/matrix/link", tarfile.LNKTYPE, "is a link or a device"),
        ("run/matrix/device", tarfile.CHRTYPE, "is a link or a device"),
    ],
    ids=["above", "absolute", "symbolic link", "hard link", "device"],
)
def test_an_archive_that_reaches_outside_is_refused(
    name: str, kind: bytes, message: str, mtx: Path, out: Path, ledger: Path, tmp_path: Path
) -> None:
    """Whatever else it holds."""
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(mtx, "run/matrix")
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(CellmillError, match=message):
        retrieve(files(path), out, ledger)
    assert not out.exists()


# Addresses, here answered by a mirror


def test_an_address_becomes_a_file_of_our_own(h5ad: Path, out: Path, ledger: Path, tmp_path: Path) -> None:
    """Moved into place, recorded, and no download left; the query stays out of the provenance."""
    content = h5ad.read_bytes()
    mirror = make_mirror(tmp_path / "mirror", cells_h5ad=content)
    facts = retrieve(files(f"{ADDRESS}/cells.h5ad?token=SECRET"), out, ledger, mirror)
    assert out.read_bytes() == content and not out.is_symlink()
    assert sorted(p.name for p in out.parent.iterdir()) == ["a.h5ad", "a.h5ad.sha256", "provenance.json"]
    assert facts == {
        "contract": "raw 1",
        "kind": "files",
        "part": "a",
        "address": f"{ADDRESS}/cells.h5ad?…",
        "sha256": sha256(content),
        "bytes": len(content),
        "note": "",
    }


def test_an_address_whose_content_changes_is_refused(h5ad: Path, out: Path, ledger: Path, tmp_path: Path) -> None:
    """The first retrieval is remembered beside the raw file."""
    mirror = make_mirror(tmp_path / "mirror", cells_h5ad=h5ad.read_bytes())
    retrieve(files(f"{ADDRESS}/cells.h5ad"), out, ledger, mirror)
    out.unlink()
    make_mirror(mirror, cells_h5ad=h5ad.read_bytes() + b"more")
    with pytest.raises(CellmillError, match=r"the file has changed.*delete .*a\.h5ad\.sha256"):
        retrieve(files(f"{ADDRESS}/cells.h5ad"), out, ledger, mirror)
    assert not out.exists()


def test_a_web_page_in_place_of_a_file_is_not_remembered(h5ad: Path, out: Path, ledger: Path, tmp_path: Path) -> None:
    """After the login page the right file is welcome."""
    mirror = make_mirror(tmp_path / "mirror", cells_h5ad=b"<html>login</html>")
    with pytest.raises(CellmillError, match="not a whole, readable HDF5 file"):
        retrieve(files(f"{ADDRESS}/cells.h5ad"), out, ledger, mirror)
    make_mirror(mirror, cells_h5ad=h5ad.read_bytes())
    retrieve(files(f"{ADDRESS}/cells.h5ad"), out, ledger, mirror)
    assert out.read_bytes() == h5ad.read_bytes()


def test_the_config_s_checksum_holds_for_an_address(h5ad: Path, out: Path, ledger: Path, tmp_path: Path) -> None:
    """The mirror is asked by it, under any name."""
    content = h5ad.read_bytes()
    mirror = make_mirror(tmp_path / "mirror", other=content, cells_h5ad=b"something else")
    source = files(f"{ADDRESS}/cells.h5ad", sha256={"a": sha256(content)})
    assert retrieve(source, out, ledger, mirror)["sha256"] == sha256(content)
    assert not out.with_name("a.h5ad.sha256").exists()


def test_the_ledger_s_checksum_holds_for_an_address(h5ad: Path, out: Path, tmp_path: Path) -> None:
    """Datasets that we ship need no checksum in their config."""
    content = h5ad.read_bytes()
    mirror = make_mirror(tmp_path / "mirror", other=content)
    ledger = tmp_path / "ledger.tsv"
    ledger.write_text(
        "name\tversion\taddress\tsha256\tbytes\tlicence\tnote\n"
        f"cells\t1\t{ADDRESS}/cells.h5ad\t{sha256(content)}\t{len(content)}\t-\t-\n"
    )
    assert retrieve(files(f"{ADDRESS}/cells.h5ad"), out, ledger, mirror)["sha256"] == sha256(content)


def test_an_archive_at_an_address_is_converted(mtx: Path, out: Path, ledger: Path, tmp_path: Path) -> None:
    """Same bytes as from the local folder, and nothing left of the download."""
    convert_tenx_folder(mtx, tmp_path / "folder.h5ad")
    packed = pack(tmp_path / "matrix.tar.gz", mtx).read_bytes()
    mirror = make_mirror(tmp_path / "mirror", matrix_tar_gz=packed)
    facts = retrieve(files(f"{ADDRESS}/matrix.tar.gz"), out, ledger, mirror)
    assert out.read_bytes() == (tmp_path / "folder.h5ad").read_bytes()
    assert facts["bytes"] == len(packed)
    assert not (out.parent / ".download").exists()


# The rest


def test_specs_are_read_without_heavy_imports() -> None:
    """The DAG is built from them on every `snakemake -n`."""
    heavy = "h5py numpy pandas scipy scanpy anndata requests".split()
    code = f"import sys, cellmill.sources; print(sorted(set({heavy!r}) & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(Path(cellmill.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
