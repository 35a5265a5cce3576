"""Rows that are sorted by way of the disk, in little memory and with few open files."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cellmill.exports.rows import KEY
from cellmill.exports.spill import Spill

SPLITS = ["train", "test"]
CODE = """
import json, resource, sys
from pathlib import Path
from threading import Event, Thread
import numpy as np
import pyarrow as pa
from cellmill.exports.rows import KEY
from cellmill.exports.spill import Spill
buckets, rows, width = 8, 4096, 1000
spill = Spill(Path(sys.argv[1]), ["train"], bits=3)
for seed in range(buckets):
    rng = np.random.default_rng(seed)
    offsets = pa.array(np.arange(rows + 1) * width)
    values = [pa.array(rng.integers(0, 9, rows * width, np.uint16)) for _ in "ab"]
    lists = [pa.LargeListArray.from_arrays(offsets, v) for v in values]
    keys = pa.array(rng.integers(0, 1 << 64, rows, np.uint64))
    spill.add(pa.RecordBatch.from_arrays([keys, *lists], names=[KEY, "genes", "counts"]), np.zeros(rows, np.int8))
del values, lists, keys

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def watch():
    while not ended.wait(0.001):
        seen.append(resident())

before, seen, ended = resident(), [], Event()
Thread(target=watch, daemon=True).start()
found = 0
for bucket in spill.buckets("train"):
    found += bucket.num_rows
    del bucket
ended.set()
print(json.dumps([found, (max(seen) - before) / (rows * width * 4)]))
"""


def rows_of(rng: np.random.Generator, n: int) -> pa.RecordBatch:
    """Keys over the whole range, and a list for each that says it again."""
    keys = rng.integers(0, 1 << 64, n, np.uint64)
    lists = pa.LargeListArray.from_arrays(pa.array(np.arange(n + 1)), pa.array(keys))
    return pa.RecordBatch.from_arrays([pa.array(keys), lists], names=[KEY, "same"])


@pytest.mark.parametrize("bits", [0, 1, 6, 7, 11, 14])
def test_every_row_comes_once_in_buckets_of_its_key(tmp_path: Path, bits: int) -> None:
    """In memory, in files, and in files that are cut into smaller ones; with no more files open than 64 for a split."""
    rng = np.random.default_rng(bits)
    spill = Spill(tmp_path, SPLITS, bits=bits)
    added: dict[str, list[int]] = {split: [] for split in SPLITS}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + 64 * 3 + 8, hard))
    try:
        for n in (3_000, 1, 5_000):
            batch, codes = rows_of(rng, n), rng.integers(0, 2, n).astype(np.int8)
            spill.add(batch, codes)
            for code, split in enumerate(SPLITS):
                added[split] += batch[KEY].to_numpy()[codes == code].tolist()
        for split in SPLITS:
            buckets = list(spill.buckets(split))
            keys = [b[KEY].to_numpy() for b in buckets]
            assert sorted(np.concatenate(keys).tolist()) == sorted(added[split])
            firsts = [k.min() for k in keys]
            assert firsts == sorted(firsts), "the buckets come in the order of the keys"
            for found in keys:
                assert not bits or len(set((found >> np.uint64(64 - bits)).tolist())) == 1
            assert all(b["same"].flatten().equals(b[KEY]) for b in buckets)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_one_bucket_and_a_column_of_it_are_in_memory(tmp_path: Path) -> None:
    """Of eight buckets, measured in a process of its own; with whole files beside what they become, it was four."""
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, check=True)
    found, buckets = json.loads(done.stdout)
    assert found == 8 * 4096
    assert 0.9 < buckets < 1.9, "in buckets"
