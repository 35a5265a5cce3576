"""The report: the same bytes every time, numbers that agree, and no dataset too odd to draw."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from cellmill.config import Columns
from cellmill.contracts import embedding, quality, versions
from cellmill.contracts.counts import CountsPart
from cellmill.embedders import GeneList, Hvg
from cellmill.embedders.embed import embed_part
from cellmill.errors import CellmillError
from cellmill.exports import HfTokens
from cellmill.exports.export import About, export
from cellmill.exports.rows import PartFiles
from cellmill.files import read_json, write_json
from cellmill.quality.ledger import account
from cellmill.report import figures, sample, umap
from cellmill.report.figures import DrawnFrom, Figures, draw_report
from cellmill.report.loading import how_to_load
from cellmill.report.page import CAPTIONS, WrittenFrom, share, write_report
from cellmill.tokenizers import Rank, ScGpt
from cellmill.tokenizers.tokenize import build_vocabulary, tokenize_part

from .stages import Made, make, random_counts, split_raw, three_parts, write_raw

SPLITS = ["train", "val", "test"]
NAMES = ("quality.svg", "cells.svg", "genes.svg", "umap.png")
ODD_LABEL = '<b>"T" & $\\alpha$_{cell}</b>'


def dataset(folder: Path, cells: int = 240, *, parts: bool = False, **spec: Any) -> Made:
    """A dataset of three labels and three batches, some cells without a label; with ``parts`` in three of them."""
    rng = np.random.default_rng(1)
    counts = random_counts(cells, 60, seed=2)
    counts.data[: counts.indptr[1]] *= 40  # one cell that no threshold lets pass
    label = rng.choice(np.array([ODD_LABEL, "B cell", "monocyte", None], object), cells, p=[0.4, 0.3, 0.25, 0.05])
    obs = {"donor": rng.choice(["d1", "d2", "d3"], cells), "cell_type": pd.Categorical(label)}
    raw = write_raw(folder / "raw.h5ad", counts, obs=obs)
    raws = split_raw(raw, folder / "parts", three_parts(cells)) if parts else {"0": raw}
    spec = {"columns": {"batch": "donor", "label": "cell_type"}, "quality": {}, "variable_genes": {"n_top": 20}} | spec
    return make(folder, raws, **spec)


def embedded(made: Made, dimensions: int = 6) -> list[Path]:
    """Vectors that depend on the cell alone, for every part."""
    files = []
    for part in made.parts:
        with CountsPart(made.file(part, "h5ad")) as file:
            rows = [np.random.default_rng(int(name[1:])).normal(size=dimensions) for name in file.obs.index]
        vectors = np.array(rows, np.float32).reshape(-1, dimensions)
        out = made.folder / "pca" / f"{part}.npy"
        embedding.write(out, out.with_suffix(".json"), [vectors], shape=vectors.shape, facts={})
        files.append(out)
    return files


def drawn_from(made: Made, vectors: list[Path]) -> DrawnFrom:
    return DrawnFrom(
        made.files("quality.parquet"),
        made.files("cells.parquet"),
        made.files("h5ad"),
        vectors,
        made.thresholds,
        made.genes,
        made.ledger,
    )


def draw(
    made: Made, vectors: list[Path], out: Path, *, label: str | None = "cell_type", batch: str | None = "donor"
) -> dict[str, bytes]:
    """All four figures, by file name."""
    figures = Figures(*(out / n for n in NAMES))
    draw_report(drawn_from(made, vectors), label=label, batch=batch, splits=SPLITS, out=figures)
    return {name: (out / name).read_bytes() for name in NAMES}


def texts(svg: bytes) -> str:
    """All text of an SVG, a line per element."""
    return "\n".join(
        "".join(e.itertext()) for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return dataset(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def drawn(made: Made) -> dict[str, bytes]:
    return draw(made, embedded(made), made.folder / "report")


# --- figures


def test_the_figures_are_the_same_bytes_in_parts_and_in_one(tmp_path: Path, drawn: dict[str, bytes]):
    """Three parts of another order give each figure byte by byte; and so does a second run."""
    apart = dataset(tmp_path, parts=True)
    assert len(apart.parts) == 3
    again = draw(apart, embedded(apart), tmp_path / "report")
    assert {name: again[name] == drawn[name] for name in NAMES} == dict.fromkeys(NAMES, True)


def test_the_figures_say_no_date_and_no_program(drawn: dict[str, bytes]):
    """SVG without metadata, PNG with no chunk that carries text or time."""
    for name in NAMES[:3]:
        assert b"<metadata" not in drawn[name] and b"<dc:date" not in drawn[name]
    png, kinds, at = drawn["umap.png"], set(), 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        kinds.add(kind)
        at += 12 + size
    assert kinds <= {b"IHDR", b"pHYs", b"PLTE", b"IDAT", b"IEND"}


def test_the_cells_figure_says_the_numbers_of_the_ledger(made: Made, drawn: dict[str, bytes]):
    """Raw, every reason, kept and every split stand there with their counts."""
    ledger = account(made.ledger)
    said = texts(drawn["cells.svg"])
    assert ledger["dropped"]
    for name, cells in {"raw": ledger["raw"], "kept": ledger["kept"], **ledger["splits"]}.items():
        assert re.search(rf"^{name}$", said, re.MULTILINE) and re.search(rf"^{cells:,}\b", said, re.MULTILINE)
    for reason, cells in ledger["dropped"].items():
        assert reason in said and f"−{cells:,} " in said


def test_every_metric_with_a_threshold_has_a_histogram_of_every_raw_cell(made: Made):
    """Kept and dropped cells of each histogram add up to the raw cells that have the metric."""
    thresholds = quality.read_thresholds(made.thresholds)
    ledger = account(made.ledger)
    bounds = figures._bounds(thresholds, ledger["dropped"])
    histograms = figures._histograms(made.files("quality.parquet"), made.files("cells.parquet"), bounds)
    assert set(histograms) == set(thresholds["dataset"])
    kept, dropped = histograms["log1p_total_counts"][1].sum(axis=1)
    assert (kept, dropped) == (ledger["kept"], ledger["raw"] - ledger["kept"])


def test_a_threshold_that_is_not_applied_says_why(made: Made, drawn: dict[str, bytes]):
    """There is no mitochondrial gene, so its deviation is 0, and the figure says it."""
    assert quality.read_thresholds(made.thresholds)["dataset"]["pct_counts_mt"]["applied"] is False
    assert "no threshold: the median absolute deviation is 0" in texts(drawn["quality.svg"])


def test_each_batch_shows_its_thresholds(drawn: dict[str, bytes]):
    """Several batches have ticks; the legend names them."""
    assert "threshold of a batch" in texts(drawn["quality.svg"])


def test_fixed_bounds_are_drawn_where_no_metric_has_a_threshold(tmp_path: Path):
    """`mads: {}` with fixed bounds draws the metrics they bound; without any, counts and genes."""
    bounded = {"fixed": {"min_counts": 30, "min_genes": 1, "max_pct_mt": None}, "dataset": {}, "batches": {}}
    assert list(figures._bounds(bounded, {})) == ["log1p_total_counts"]
    bounded["fixed"]["min_counts"] = 1
    assert list(figures._bounds(bounded, {})) == ["log1p_n_genes_by_counts", "log1p_total_counts"]


def test_the_most_variable_genes_are_named(made: Made, drawn: dict[str, bytes]):
    """The ten genes of the highest rank stand in the figure, by symbol or id."""
    genes = pd.read_parquet(made.genes)
    top = genes[genes["variable_rank"].between(0, 9)]["gene_id"]
    assert len(top) == 10 and all(gene in texts(drawn["genes.svg"]) for gene in top)


def test_a_dataset_without_embedding_gets_a_picture_that_says_so(made: Made, tmp_path: Path):
    """No vectors, and yet a PNG; the other figures are as they were."""
    without = draw(made, [], tmp_path)
    assert without["umap.png"].startswith(b"\x89PNG") and len(without["umap.png"]) < 40_000


def test_the_umap_has_a_panel_for_label_batch_and_split(made: Made, drawn: dict[str, bytes], tmp_path: Path):
    """Two in a row; a column that the dataset does not name has none."""
    vectors, sizes = embedded(made), []
    for label, batch in ((None, None), ("cell_type", None), (None, "donor")):
        png = draw(made, vectors, tmp_path, label=label, batch=batch)["umap.png"]
        sizes.append(struct.unpack(">II", png[16:24]))
    width, height = sizes[0]
    assert sizes[1:] == [(2 * width, height)] * 2
    assert struct.unpack(">II", drawn["umap.png"][16:24]) == (2 * width, 2 * height)


@pytest.mark.parametrize("cells", [1, 2, 3, 4, 16])
def test_few_cells_can_be_drawn(tmp_path: Path, cells: int):
    """Fewer cells than UMAP has neighbours, down to one."""
    few = dataset(tmp_path, cells, quality={"mads": {}}, split={"fractions": {"train": 1.0}})
    assert draw(few, embedded(few), tmp_path / "report")["umap.png"].startswith(b"\x89PNG")


def test_cells_with_equal_vectors_and_one_dimension_can_be_drawn(tmp_path: Path):
    """No spread, and fewer dimensions than the picture: the layout is finite all the same."""
    layout = umap.layout_of(np.zeros((20, 1), np.float32))
    assert layout.shape == (20, 2) and np.isfinite(layout).all()


def test_what_umap_learn_compiles_is_kept():
    """Every function that a layout needs is found by its name, and was read from numba's cache or written to it."""
    umap.layout_of(np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    functions = umap.compiled_functions()
    assert tuple(functions) == umap.COMPILED
    for name, function in functions.items():
        assert {*function.stats.cache_hits, *function.stats.cache_misses}, name


def test_a_sample_is_the_first_cells_in_hash_order(made: Made, tmp_path: Path):
    """A smaller sample is the beginning of a larger one, in parts and in one; of all cells and of a split."""
    apart = dataset(tmp_path, parts=True)
    columns, splits = ["cell_type", "donor"], [None, "train"]
    every = sample.draw(made.files("h5ad"), embedded(made), columns=columns, cells=10**6, splits=splits)
    for some in (made, apart):
        found = sample.draw(some.files("h5ad"), embedded(some), columns=columns, cells=50, splits=splits)
        assert found.names == every.names and found.kept == every.kept == len(every.samples[None].vectors)
        for split in splits:
            few, all_ = found.samples[split], every.samples[split]
            np.testing.assert_array_equal(few.vectors, all_.vectors[:50])
            for column in columns:
                np.testing.assert_array_equal(few.columns[column], all_.columns[column][:50])
    assert len(every.samples["train"].vectors) < every.kept


def test_labels_beyond_twenty_are_other_and_missing_ones_no_label():
    """Twenty colours of their own, grey for the rest."""
    labels = np.array([*(f"t{i:02d}" for i in range(25)), None], object)
    groups = umap.groups_of(labels, [f"t{i:02d}" for i in range(25)])
    assert [g.name for g in groups[:2]] == ["other (5)", "none"] and len(groups) == 22
    assert sorted(np.concatenate([g.rows for g in groups])) == list(range(26))


def test_files_of_other_cells_are_refused(made: Made, tmp_path: Path):
    """A cells file of another length than the quality file is no histogram."""
    other = dataset(tmp_path, 100)
    mixed = dataclasses.replace(drawn_from(made, []), cells=other.files("cells.parquet"))
    with pytest.raises(CellmillError, match="100 cells, but"):
        draw_report(mixed, label=None, batch=None, splits=SPLITS, out=Figures(*(tmp_path / n for n in NAMES)))
    assert not (tmp_path / "quality.svg").exists()


def test_drawing_leaves_matplotlib_as_it_was(drawn: dict[str, bytes]):
    """Our settings hold for our figures alone."""
    import matplotlib

    assert matplotlib.rcParams["text.parse_math"] and matplotlib.rcParams["svg.hashsalt"] is None


# --- page


@pytest.fixture(scope="module")
def written_from(made: Made, drawn: dict[str, bytes]) -> WrittenFrom:
    """The inputs of the page, with one export in Hugging Face's format."""
    base = made.folder
    build_vocabulary(made.genes, files={}, spec=Rank(), out=base / "vocabulary.json", out_genes=base / "v.parquet")
    for part in made.parts:
        vocabulary = {"vocabulary": base / "vocabulary.json", "gene_tokens": base / "v.parquet"}
        tokenize_part(made.file(part, "h5ad"), **vocabulary, spec=Rank(), out=base / "rank" / f"{part}.parquet")
        hvg, said = made.file(part, "hvg.npy"), made.file(part, "hvg.json")
        embed_part(made.file(part, "h5ad"), genes=made.genes, files=[], spec=Hvg(n_genes=8), out=hvg, manifest=said)
    spec = made.dataset
    parts = [
        PartFiles(
            str(made.file(p, "h5ad")),
            {"rank": str(base / "rank" / f"{p}.parquet")},
            {"hvg": str(made.file(p, "hvg.npy"))},
        )
        for p in made.parts
    ]
    export(
        parts,
        path="hf/cells",
        spec=HfTokens(embeddings=["hvg"]),
        about=About(
            dataset="demo",
            title=spec.title,
            organism=spec.organism,
            license=None,
            columns=Columns(batch="donor", label="cell_type"),
            kept_columns=spec.kept_columns,
            split=spec.split.model_dump(mode="json"),
        ),
        ledger=made.ledger,
        genes=made.genes,
        vocabulary_file=str(base / "vocabulary.json"),
        out=base / "hf" / "cells" / "manifest.json",
    )
    resolved = {"dataset": spec.model_dump(mode="json"), "tokenizers": {"rank": Rank().model_dump(mode="json")}}
    resolved["dataset"]["source"] = {"kind": "files", "files": {"0": "data/raw.h5ad"}}
    write_json(base / "config.json", resolved)
    return WrittenFrom(
        figures=[base / "report" / n for n in NAMES],
        manifests=[base / "hf" / "cells" / "manifest.json"],
        tokens=[base / "rank" / f"{p}.parquet" for p in made.parts],
        ledger=made.ledger,
        thresholds=made.thresholds,
        genes=made.genes,
        config=base / "config.json",
    )


def test_genes_that_are_asked_for_and_absent_stand_on_the_page(made: Made, written_from: WrittenFrom, tmp_path: Path):
    """Of a list, of a vocabulary from outside and of a model: asked, found, absent, and the first names."""
    genes = pd.read_parquet(made.genes)
    known = genes["gene_symbol"].where(genes["gene_symbol"].fillna("") != "", genes["gene_id"]).tolist()[:3]
    absent = [f"OTHER{i}" for i in range(12)]
    part, manifest = made.parts[0], tmp_path / "panel" / "0.json"
    panel = GeneList(genes=[*known, *absent], min_found=0.1)
    vectors = manifest.with_suffix(".npy")
    embed_part(made.file(part, "h5ad"), genes=made.genes, files=[], spec=panel, out=vectors, manifest=manifest)
    words = ["<pad>", "<cls>", "<eoc>", *known, "NOTHERE"]
    write_json(tmp_path / "words.json", {word: i for i, word in enumerate(words)})
    folder = tmp_path / "theirs"
    files = {"out": folder / "vocabulary.json", "out_genes": folder / "gene_tokens.parquet"}
    build_vocabulary(made.genes, files={"vocabulary": str(tmp_path / "words.json")}, spec=ScGpt(), **files)
    reference = tmp_path / "census" / "0.json"
    model = {"kind": "SCVI", "genes": 2000, "genes_found": 1998}
    embedder = {"kind": "scvi_reference"}
    write_json(reference, {"contract": str(versions.EMBEDDING), "embedder": embedder, "model": model})
    asked = {"embeddings": [manifest, reference], "vocabularies": [files["out"]], "gene_tokens": [files["out_genes"]]}
    text = write(dataclasses.replace(written_from, **asked), tmp_path / "index.html")
    found = {
        row[0]: row[1:]
        for row in (re.findall(r"<td[^>]*>(.*?)</td>", line) for line in text.splitlines())
        if row and row[0].startswith(("embedder ", "tokenizer "))
    }
    assert found == {
        "embedder panel": ["15", "3", "20.0 %", "12", ", ".join(absent[:10]) + ", …"],
        "embedder census": ["2,000", "1,998", "99.9 %", "2", "named in the logs of <code>embed_scvi</code>"],
        "tokenizer theirs": ["4", "3", "75.0 %", "1", "NOTHERE"],
    }
    assert "genes asked for by" not in write(written_from, tmp_path / "without.html")


def write(made: WrittenFrom, out: Path, **said: Any) -> str:
    write_report(made, **({"dataset": "demo", "title": "A title", "splits": SPLITS} | said), out=out)
    return out.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags that stand open, links and ids of a page."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("href", "xlink:href", "src", "action")]
        self.ids += [v or "" for k, v in attrs if k == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_the_same_bytes_every_time(written_from: WrittenFrom, tmp_path: Path):
    """Nothing in it depends on when or where it was written."""
    page = write(written_from, tmp_path / "a" / "index.html")
    assert page == write(written_from, tmp_path / "b" / "index.html")
    assert str(tmp_path) not in page and str(Path(written_from.genes).parent) not in page


def test_the_page_needs_nothing_but_itself(written_from: WrittenFrom, tmp_path: Path):
    """No script, no address, no link out of the page, all tags closed, every id there once."""
    text = write(written_from, tmp_path / "index.html")
    page = Page(text)
    assert "http:" not in text and "https:" not in text and "script" not in page.tags
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)


def test_the_page_says_the_numbers_of_the_manifest(written_from: WrittenFrom, tmp_path: Path):
    """Raw, kept, dropped, splits and genes, as the export counted them."""
    text = write(written_from, tmp_path / "index.html")
    said = read_json(written_from.manifests[0])
    ledger = said["ledger"]
    tiles = dict(re.findall(r"<dt>([^<]*)</dt><dd>([\d,]+)", text))
    counted = {k: int(v.replace(",", "")) for k, v in tiles.items()}
    assert counted == {
        "raw cells": ledger["raw"],
        "dropped": ledger["raw"] - ledger["kept"],
        "kept": ledger["kept"],
        **said["splits"],
        "genes": said["genes"],
        "variable genes": said["variable_genes"],
        "training cells": said["train_cells"],
    }
    rows = re.findall(r'<tr><td>([^<]*)</td><td class="n">([\d,]+)</td><td class="n">[^<]*</td></tr>', text)
    assert {k: int(v) for k, v in rows} == ledger["dropped"]
    assert "results/demo/hf/cells" in text


def test_the_page_says_how_much_the_tokens_cover(written_from: WrittenFrom, tmp_path: Path):
    """A row per tokenizer, as the manifest adds it up: genes, values, counts, and a histogram of the cells."""
    text = write(written_from, tmp_path / "index.html")
    facts = read_json(written_from.manifests[0])["tokens"]["rank"]
    shares = [share(facts[f"{what}_with_token"], facts[what]) for what in ("genes", "values", "counts")]
    assert "<tr><td>rank</td>" + "".join(f'<td class="n">{s}</td>' for s in shares) in text
    bars = [n for n in facts["tokens_per_cell"]["cells"] if n]
    svg = re.search(r'<svg role="img" aria-label="0 to [\d,]+ tokens, 32 per bar".*?</svg>', text)
    assert svg and svg[0].count("<rect") == len(bars) and sum(bars) == facts["cells"]


@pytest.mark.parametrize("key", ["ledger", "genes", "train_cells", "dataset"])
def test_a_manifest_that_counts_otherwise_is_refused(written_from: WrittenFrom, tmp_path: Path, key: str):
    """Found against counted, and no page is written."""
    said = read_json(written_from.manifests[0])
    said[key] = said[key] | {"kept": 1} if key == "ledger" else "other" if key == "dataset" else said[key] + 1
    write_json(tmp_path / "hf" / "cells" / "manifest.json", said)
    changed = dataclasses.replace(written_from, manifests=[tmp_path / "hf" / "cells" / "manifest.json"])
    with pytest.raises(CellmillError, match=f"manifest.json: {key} is .*, but the dataset now has"):
        write(changed, tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


def test_names_are_escaped(written_from: WrittenFrom, tmp_path: Path):
    """A title of HTML stays text, in the page and inside the configuration."""
    config = read_json(written_from.config)
    config["dataset"]["title"] = "</pre><script>alert(1)</script>"
    write_json(tmp_path / "config.json", config)
    changed = dataclasses.replace(written_from, config=tmp_path / "config.json")
    page = Page(write(changed, tmp_path / "index.html", title="<script>alert(2)</script>"))
    assert "script" not in page.tags and "alert(2)" in "".join(page.text)


def test_a_dataset_without_exports_has_a_page(written_from: WrittenFrom, tmp_path: Path):
    """No manifest, no tokenizer: the sections say so or are not there."""
    text = write(dataclasses.replace(written_from, manifests=[], tokens=[]), tmp_path / "index.html")
    assert "None is asked for" in text and "<h2>Tokens</h2>" not in text


def test_the_configuration_on_the_page_is_that_of_the_file(written_from: WrittenFrom, tmp_path: Path):
    """What stands in <pre>, read as JSON."""
    text = "".join(Page(write(written_from, tmp_path / "index.html")).text)
    start = text.index('{\n  "dataset"')
    assert json.JSONDecoder().raw_decode(text[start:])[0] == read_json(written_from.config)


def test_captions_are_those_of_the_workflow(repo: Path):
    """Page and `snakemake --report` say the same under each figure."""
    for name, (title, text) in CAPTIONS.items():
        caption = (repo / "workflow" / "report" / f"{name}.rst").read_text()
        assert " ".join(caption.split()) == f"**{title}** {text}"


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (0, 0, "–"),
        (0, 9, "0.0 %"),
        (9, 9, "100.0 %"),
        (1, 10_000, "< 0.1 %"),
        (9_999, 10_000, "> 99.9 %"),
        (1, 3, "33.3 %"),
    ],
)
def test_a_share_is_all_or_nothing_only_where_it_is(part: int, whole: int, said: str):
    """Rounding makes neither 0 nor 100 of something that is not."""
    assert share(part, whole) == said


@pytest.mark.parametrize(
    ("path", "kind", "line"),
    [
        ("hf/cells", "tokens", 'datasets.load_dataset("results/d/hf/cells")'),
        ("hf/pairs", "multiplets", 'datasets.load_dataset("results/d/hf/pairs")'),
        ("mds/tokens", "tokens", 'StreamingDataset(remote="results/d/mds/tokens/train", local="<cache folder>")'),
        ("hdf5/counts", "counts", 'h5py.File("results/d/hdf5/counts/train/batch_0000.h5")["expression"]'),
        ("scdl/counts", "counts", 'SingleCellMemMapDataset("results/d/scdl/counts/train")'),
        ("geneformer/tokens", "tokens", 'datasets.load_from_disk("results/d/geneformer/tokens")'),
        ("zarr/counts", "counts", 'anndata.read_zarr("results/d/zarr/counts/train/dataset_0")'),
        ("h5ad/x", "counts", 'anndata.read_h5ad("results/d/h5ad/x/train/cells.h5ad")'),
        ("packed/counts", "counts", 'PackedRows("results/d/packed/counts/train")'),
    ],
)
def test_every_format_has_a_line_that_loads_it(path: str, kind: str, line: str):
    """One line of Python, from the folder that snakemake ran in."""
    assert how_to_load("d", path, kind) == line
    compile(line, "line", "eval")


def test_pickled_tensors_must_be_allowed():
    """The line says so, or it would not load them."""
    line = how_to_load("d", "mds/tahoe", "tokens", encoding="tensors")
    assert line.endswith(', local="<cache folder>", allow_unsafe_types=True)')
    assert "unsafe" not in how_to_load("d", "mds/tahoe", "tokens", encoding="json")


def test_an_unknown_format_is_refused():
    """It names those that there are."""
    with pytest.raises(CellmillError, match=r"no format 'csv'.*geneformer, h5ad, hdf5, hf, mds, packed, scdl, zarr"):
        how_to_load("d", "csv/cells", "cells")
