"""A look into a file of a server or store: how many cells it has, by ranges of it; cells come from what is fetched."""

from __future__ import annotations

import io
from functools import partial
from typing import BinaryIO, cast

import h5py
import requests

from cellmill import __version__
from cellmill.errors import CellmillError
from cellmill.patience import PATIENCE, AgainError, Patience, is_passing, persist, reason_of, retry_after
from cellmill.sources.fetch import redacted
from cellmill.sources.stores import Listed, door

BLOCK_BYTES = {"h5ad": 1 << 20, "parquet": 1 << 16}
"""Of HDF5 a few places are read; of Parquet the end, which one block holds of most files."""
_FIX = "Run again later; check the address, the network, and whether it asks for a login or bills its requester."


def cells_at(file: Listed, *, project: str | None = None, patience: Patience = PATIENCE) -> int:
    """The cells of an h5ad file, or the rows of a Parquet file, at an address.

    Args:
        file: with its size, as a listing gives it.
        project: the Google Cloud project that is billed.

    Raises:
        CellmillError: it cannot be looked into, or is neither.
    """
    with _Ranges(file, project, patience) as ranges:
        return cells_in(cast(BinaryIO, ranges), redacted(file.address))


def cells_in(file: BinaryIO, name: str) -> int:
    """The same of an open file, by the ending of its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if name.endswith(".parquet"):
            return int(pq.ParquetFile(file).metadata.num_rows)
        with h5py.File(file, "r") as opened:
            obs = opened["obs"]
            return len(obs if isinstance(obs, h5py.Dataset) else obs[obs.attrs.get("_index", "index")])
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        if isinstance(error.__cause__, CellmillError):
            raise error.__cause__ from None
        raise CellmillError(name, f"not readable ({error}).", "Get it again, or try later.") from error


class _Ranges(io.RawIOBase):
    """A file at an address, of which blocks are asked for as they are read."""

    def __init__(self, file: Listed, project: str | None, patience: Patience) -> None:
        super().__init__()
        if file.bytes is None:
            raise CellmillError(redacted(file.address), "the store does not say how large it is.", "Download it.")
        self._file, self._size, self._project, self._patience = file, file.bytes, project, patience
        self._block_bytes = BLOCK_BYTES["parquet" if file.address.endswith(".parquet") else "h5ad"]
        self._blocks: dict[int, bytes] = {}
        self._session, self._at = requests.Session(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        n = 0
        while n < len(view) and self._at < self._size:  # HDF5 takes a short read for the end of the file
            number, skip = divmod(self._at, self._block_bytes)
            piece = self._block(number)[skip : skip + len(view) - n]
            view[n : n + len(piece)] = piece
            n, self._at = n + len(piece), self._at + len(piece)
        return n

    def close(self) -> None:
        self._session.close()
        super().close()

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            where = redacted(self._file.address)
            self._blocks[number] = persist(partial(self._ask, number), where=where, patience=self._patience, fix=_FIX)
        return self._blocks[number]

    def _ask(self, number: int) -> bytes:
        first = number * self._block_bytes
        last = min(first + self._block_bytes, self._size) - 1
        asked = door(self._file.address, project=self._project)
        headers = {"Accept-Encoding": "identity", "User-Agent": f"cellmill/{__version__}"}
        headers |= {"Range": f"bytes={first}-{last}", **asked.headers}
        try:
            answer = self._session.get(asked.address, headers=headers, timeout=self._patience.timeout_s, stream=True)
            with answer:
                content = answer.content if answer.status_code == 206 else b""
        except (requests.RequestException, ValueError) as error:  # their texts may hold the query
            raise AgainError(reason_of(error)) from None
        if is_passing(answer.status_code):
            raise AgainError(f"HTTP {answer.status_code}", retry_after(answer.headers))
        if answer.status_code != 206:
            said = f"the server answers HTTP {answer.status_code} to a question for a part of it."
            raise CellmillError(redacted(self._file.address), said, _FIX)
        if len(content) != last - first + 1:
            raise AgainError("the connection was cut")
        if not answer.headers.get("Content-Range", "").endswith(f"/{self._size}"):
            raise CellmillError(redacted(self._file.address), "it changed while it was read.", "Run again.")
        return content
