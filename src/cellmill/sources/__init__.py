"""Where raw data come from. One file per kind; this union is the registry."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cellmill.sources.bundled import Bundled
from cellmill.sources.files import Files

Source = Annotated[Bundled | Files, Field(discriminator="kind")]

__all__ = ["Bundled", "Files", "Source"]
