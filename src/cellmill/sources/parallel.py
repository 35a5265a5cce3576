"""Many files at once: one bound on their rate, one progress, and the first failure stops all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from cellmill.errors import CellmillError
from cellmill.files import format_bytes
from cellmill.progress import progress
from cellmill.sources.download import Download
from cellmill.sources.fetch import FetchedFrom, StoppedError, Traffic, fetch


@dataclass(frozen=True)
class Wanted:
    """A file that is to be fetched, and what is known of it."""

    address: str
    path: Path
    checksum: str | None = None
    bytes: int | None = None
    project: str | None = None
    """The Google Cloud project that is billed."""
    record: Path | None = None
    """Where a checksum is kept that was not known; None: beside the file."""

    @property
    def there(self) -> int:
        """Bytes of the file that are on this disk already, whole or in part."""
        for path in (self.path, self.path.with_name(f".{self.path.name}.part")):
            if path.is_file():
                return path.stat().st_size
        return 0


def fetch_all(wanted: Sequence[Wanted], *, mirror: Path | None, download: Download) -> list[FetchedFrom]:
    """Fetch files side by side, each as ``fetch`` does; what was found of each, in their order.

    Raises:
        CellmillError: the first that ``fetch`` raises; the others then stop, and what is whole or begun stays.
    """
    total = sum(w.bytes or 0 for w in wanted)
    with (
        progress(total or None, "B", f"{len(wanted)} files") as counter,
        progress(len(wanted), "files", "fetching") as done,
    ):
        traffic = Traffic(download.bytes_per_s, counter)

        def get(file: Wanted) -> FetchedFrom:
            kind, _, value = (file.checksum or "").partition(":")
            found = fetch(
                file.address,
                file.path,
                sha256=value if kind == "sha256" else None,
                checksum=file.checksum if kind not in ("", "sha256") else None,
                size=file.bytes,
                mirror=mirror,
                record=file.record,
                patience=download.patience,
                traffic=traffic,
                project=file.project,
            )
            if found.origin == "present":
                counter.update(found.bytes)
            done.update(1)
            return found

        with ThreadPoolExecutor(download.connections, thread_name_prefix="fetch") as pool:
            tasks = [pool.submit(get, file) for file in wanted]
            try:
                finished, _ = wait(tasks, return_when=FIRST_EXCEPTION)
                failed = any(task.exception() is not None for task in finished)
            except BaseException:
                failed = True
                raise
            finally:
                if failed:
                    traffic.stopped.set()
                    pool.shutdown(wait=False, cancel_futures=True)
    errors = [e for task in tasks if not task.cancelled() and (e := task.exception()) is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, StoppedError)):
        raise error
    return [task.result() for task in tasks]


def refuse_full_disk(folder: Path, *, needed: int, what: str) -> None:
    """Make the folder, or say that its disk has too little room."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CellmillError(
            folder,
            f"{what} need {format_bytes(needed)}, and {format_bytes(free)} are free.",
            "Free some space, point --directory at a larger disk, let fewer jobs run at once, or make parts smaller.",
        )
