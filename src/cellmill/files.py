"""Files as the house writes them: aside first, then renamed; whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellmill.errors import CellmillError


def _aside(path: Path) -> Path:
    """A new hidden name beside ``path``; what a killed job left there before is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if not stale.name.split(".")[-2].isdigit() or stale.name.count(".") != path.name.count(".") + 3:
            continue  # of another file, whose name begins alike
        shutil.rmtree(stale, ignore_errors=True) if stale.is_dir() else stale.unlink(missing_ok=True)
    return path.parent / f".{path.name}.{os.getpid()}.partial"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether a failed write means that no space is left (h5py and Arrow hide the number in the text)."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    return any(s in text for s in ("No space left on device", "errno = 28", "errno 28", "Disk quota exceeded"))


@contextmanager
def replacing(path: str | os.PathLike[str], *, directory: bool = False) -> Iterator[Path]:
    """Yield a name aside; on success it becomes ``path`` in one step, on any error it is removed.

    ``directory=True`` makes the aside name a folder and replaces a folder.
    A full disk becomes a ``CellmillError`` that says so.
    """
    final = Path(path)
    aside = _aside(final)
    try:
        if directory:
            aside.mkdir()
        yield aside
        if directory:
            _remove(final)
        os.replace(aside, final)
    except BaseException as error:
        _remove(aside)
        if is_disk_full(error):
            free = shutil.disk_usage(final.parent).free
            raise CellmillError(
                final,
                f"the disk is full ({free:,} bytes free in {final.parent}); nothing was left under this name.",
                "Free some space, or point --directory at a larger disk, and run again: what is done stays done.",
            ) from error
        raise


@contextmanager
def scratch(beside: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder on the disk of ``beside``, gone afterwards; ``CELLMILL_SCRATCH`` puts it elsewhere."""
    parent = Path(os.environ.get("CELLMILL_SCRATCH") or Path(beside).parent)
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The file's sha256 in hexadecimal, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with sorted keys, atomically: the same value gives the same bytes."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON, or say which file is not JSON."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise CellmillError(path, f"not readable as JSON ({error}).", "Delete it and run again.") from error


def inside(folder: str | os.PathLike[str], name: str) -> Path:
    """``folder/name``, refused where ``name`` (from a table, an archive) would leave the folder."""
    base = Path(folder).resolve()
    path = (base / name).resolve()
    if path != base and base not in path.parents:
        raise CellmillError(
            folder, f"the name '{name}' points outside this folder.", "Correct the table it comes from."
        )
    return path


def format_bytes(size: int) -> str:
    """A size as people read it: ``1.3 MB``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")
