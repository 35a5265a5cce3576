"""An atlas by seed: a gzip h5ad of any number of cells, with counts like those of a 10x experiment."""

from __future__ import annotations

from pathlib import Path

import anndata
import numba
import numpy as np
import pandas as pd
import scipy.sparse as sp

N_GENES = 36_000
MEAN_LOG_DEPTH, SD_LOG_DEPTH = 7.75, 0.5
"""Counts per cell are log-normal; with these, a cell has about 1,500 genes."""


@numba.njit(cache=True)
def _draw(
    depths: np.ndarray, keep: np.ndarray, alias: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Multinomial cells by the alias method: values and genes end to end, and offsets."""
    np.random.seed(seed)
    n_genes = len(alias)
    data, indices = np.empty(depths.sum(), np.float32), np.empty(depths.sum(), np.int32)
    offsets = np.zeros(len(depths) + 1, np.int64)
    seen = np.zeros(n_genes, np.int32)
    end = 0
    for i in range(len(depths)):
        touched, m = np.empty(depths[i], np.int32), 0
        for _ in range(depths[i]):
            g = np.random.randint(0, n_genes)
            if np.random.random() > keep[g]:
                g = alias[g]
            if seen[g] == 0:
                touched[m] = g
                m += 1
            seen[g] += 1
        for g in np.sort(touched[:m]):
            data[end], indices[end] = seen[g], g
            seen[g] = 0
            end += 1
        offsets[i + 1] = end
    return data[:end].copy(), indices[:end].copy(), offsets


def _alias(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep, alias = p * len(p), np.zeros(len(p), np.int64)
    small, large = ([int(i) for i in np.flatnonzero(mask)] for mask in (keep < 1, keep >= 1))
    while small and large:
        s, g = small.pop(), large.pop()
        alias[s] = g
        keep[g] -= 1 - keep[s]
        (small if keep[g] < 1 else large).append(g)
    return np.clip(keep, 0, 1), alias


def parts(folder: Path, *, cells: int, cells_of_a_part: int = 100_000) -> list[Path]:
    """An atlas in several files, as atlases come; no two cells have the same id or counts."""
    starts = range(0, cells, cells_of_a_part)
    return [
        atlas(folder / f"{i}.h5ad", cells=min(cells_of_a_part, cells - start), seed=i, first=start)
        for i, start in enumerate(starts)
    ]


def atlas(path: Path, *, cells: int, seed: int = 0, first: int = 0) -> Path:
    """Write the atlas where it is not there yet, as anndata writes it with gzip; cells are numbered from ``first``."""
    if path.exists():
        return path
    p = np.exp(np.random.default_rng(0).normal(0, 2.2, N_GENES))
    rng = np.random.default_rng([seed, 1])
    depths = np.maximum(rng.lognormal(MEAN_LOG_DEPTH, SD_LOG_DEPTH, cells).astype(np.int64), 300)
    counts = sp.csr_matrix(_draw(depths, *_alias(p / p.sum()), seed + 1), shape=(cells, N_GENES))
    obs = pd.DataFrame(
        {name: pd.Categorical(rng.integers(0, n, cells).astype(str)) for name, n in (("cell_type", 20), ("donor", 30))},
        index=[f"cell{first + i}" for i in range(cells)],
    )
    symbols = [f"MT-{i}" if i < 13 else f"GENE{i}" for i in range(N_GENES)]
    var = pd.DataFrame({"feature_name": symbols}, index=[f"ENSG{i:011d}" for i in range(N_GENES)])
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    anndata.AnnData(counts, obs, var).write_h5ad(aside, compression="gzip")
    aside.rename(path)
    return path
