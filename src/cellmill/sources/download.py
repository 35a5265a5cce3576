"""``download:``: how files are fetched; none of it changes a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cellmill.spec import PositiveInt, Spec

if TYPE_CHECKING:
    from cellmill.patience import Patience


class Download(Spec):
    """How a job fetches the files of a part. A change reruns nothing."""

    connections: Annotated[int, Field(ge=1, le=64)] = 4
    """Files that a job fetches at once."""
    mb_per_s: Annotated[float, Field(gt=0)] | None = None
    """Megabytes that a job takes in a second, over all its connections. `null`: no bound."""
    tries: PositiveInt = 6
    """Tries in a row that bring nothing, before a job gives up."""

    @property
    def bytes_per_s(self) -> float | None:
        """The bound in bytes."""
        return None if self.mb_per_s is None else self.mb_per_s * 1e6

    @property
    def patience(self) -> Patience:
        """How long to go on with a server that fails."""
        from cellmill.patience import Patience

        return Patience(tries=self.tries)
