"""A look into a file of a server or store without fetching it whole: ranges of it, as an open file.

What is read here plans (numbers of cells, tables of samples); cells come from files that were fetched and verified.
"""

from __future__ import annotations

import io
import logging
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, cast

import h5py
import requests

from cellmill import __version__
from cellmill.errors import CellmillError
from cellmill.patience import PATIENCE, AgainError, Patience, is_passing, persist, reason_of, retry_after
from cellmill.sources.fetch import content_range, in_mirror, redacted
from cellmill.sources.stores import door, refusal

log = logging.getLogger("cellmill")

BLOCK_BYTES = 1 << 20
MAX_BLOCKS = 64
"""Blocks in memory at once."""


class RangeFile(io.RawIOBase):
    """A file at an address, read in blocks of 1 MiB as they are needed; ``size`` is that of the whole file.

    Raises:
        CellmillError: no such file, a server without ranges, one that fails for too long, or a file that changes
            while it is read.
    """

    def __init__(self, address: str, *, project: str | None = None, patience: Patience = PATIENCE) -> None:
        super().__init__()
        self.address, self._project, self._patience = address, project, patience
        self._session = requests.Session()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._at = self.size = 0
        self._etag: str | None = None
        self._block(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        n = max(0, min(len(view), self.size - self._at))
        done = 0
        while done < n:
            number, skip = divmod(self._at + done, BLOCK_BYTES)
            piece = self._block(number)[skip : skip + n - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
        self._at += n
        return n

    def close(self) -> None:
        self._session.close()
        super().close()

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            where, fix = redacted(self.address), "Run again later, or download the file and give its path."
            found = persist(lambda: self._ask(number), where=where, patience=self._patience, fix=fix)
            self._blocks[number] = found
            if len(self._blocks) > MAX_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _ask(self, number: int) -> bytes:
        first = number * BLOCK_BYTES
        asked = door(self.address, project=self._project)
        headers = {
            "Accept-Encoding": "identity",
            "User-Agent": f"cellmill/{__version__}",
            "Range": f"bytes={first}-{first + BLOCK_BYTES - 1}",
        }
        try:
            response = self._session.get(
                asked.address, headers=headers | asked.headers, stream=True, timeout=self._patience.timeout_s
            )
            with response:
                if response.status_code == 206:
                    return self._checked(response, first)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise AgainError(reason_of(error)) from None
        except (requests.RequestException, ValueError) as error:  # its text may hold the query: only its kind is told
            raise CellmillError(
                redacted(self.address), f"cannot be asked for ({type(error).__name__}).", "Correct the address."
            ) from None
        code = response.status_code
        if is_passing(code):
            raise AgainError(f"HTTP {code}", retry_after(response.headers))
        if code in (200, 416):
            raise CellmillError(
                redacted(self.address),
                "it is empty, or its server gives no ranges of it, and a look into it is needed to plan.",
                "Download it first, and give its path.",
            )
        found = f"the server answers HTTP {code} {response.reason or ''}".rstrip() + "."
        raise CellmillError(redacted(self.address), found, refusal(self.address, code))

    def _checked(self, response: requests.Response, first: int) -> bytes:
        start, total = content_range(response.headers)
        etag = response.headers.get("ETag")
        if start != first or total is None or (self.size and (total, etag) != (self.size, self._etag)):
            raise CellmillError(redacted(self.address), "it changed while it was read.", "Run again.")
        content = response.content
        if len(content) != min(BLOCK_BYTES, total - first):
            raise AgainError("the connection was cut")
        self.size, self._etag = total, etag
        return content


def look_into(
    address: str, *, mirror: Path | None, checksum: str | None = None, project: str | None = None
) -> BinaryIO:
    """Open a file for a look: the mirror's copy, where there is one, else by ranges."""
    copy = in_mirror(mirror, address, checksum)
    return (
        open(copy, "rb")
        if copy is not None
        else cast(BinaryIO, io.BufferedReader(RangeFile(address, project=project), BLOCK_BYTES))
    )


def size_and_cells(
    address: str, *, mirror: Path | None, checksum: str | None = None, project: str | None = None
) -> tuple[int, int | None]:
    """Bytes of a file at an address, and the cells of an h5ad or the rows of a Parquet file; None of other kinds.

    Raises:
        CellmillError: it cannot be looked into.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = address.partition("?")[0].lower()
    with look_into(address, mirror=mirror, checksum=checksum, project=project) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            if name.endswith(".h5ad"):
                with h5py.File(file, "r") as opened:
                    return size, cells_of(opened)
            if name.endswith(".parquet"):
                return size, pq.ParquetFile(file).metadata.num_rows
        except (OSError, KeyError, pa.ArrowInvalid) as error:
            raise CellmillError(redacted(address), f"not readable ({error}).", "Check the address.") from error
    return size, None


def cells_of(file: h5py.File) -> int:
    """The number of rows of the obs table of an h5ad file."""
    obs = file["obs"]
    return len(obs if isinstance(obs, h5py.Dataset) else obs[obs.attrs.get("_index", "index")])
