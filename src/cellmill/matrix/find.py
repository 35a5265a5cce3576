"""``counts: auto``: which matrix of a file holds the counts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from os import PathLike

from cellmill.errors import CellmillError
from cellmill.matrix.reader import CountsFile, NotCountsError

log = logging.getLogger("cellmill")


def find_counts(path: str | PathLike[str], counts: str, work: Callable[[str, str], None]) -> None:
    """Call ``work(where, why)`` for the matrix that ``counts`` names.

    With ``auto`` these are the matrices of the file in turn, until ``work`` meets no value that is no count.

    Raises:
        CellmillError: no matrix holds counts, or the one that is named does not.
    """
    refused: list[str] = []
    for where in CountsFile.candidates(path) if counts == "auto" else [counts]:
        try:
            work(where, "; ".join(refused) or "every value of it is a count")
            return
        except NotCountsError as error:
            if counts != "auto":
                raise
            log.info("counts: auto looks further: %s", error)
            refused.append(error.found)
    found = " ".join(refused) if refused else "it has no matrix at all."
    raise CellmillError(path, f"no matrix of it holds counts: {found}", "Take a file with raw counts.")
