"""Where raw data come from. One file per kind; this union is the registry."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from cellmill.sources.bundled import Bundled
from cellmill.sources.census import Census
from cellmill.sources.files import Files
from cellmill.sources.geo_archs4 import GeoArchs4
from cellmill.sources.hub import Hub
from cellmill.sources.scbasecount import ScBaseCount
from cellmill.sources.tahoe import Tahoe

Source = Annotated[Bundled | Census | Files | GeoArchs4 | Hub | ScBaseCount | Tahoe, Field(discriminator="kind")]


def parse_source(values: dict[str, Any]) -> Source:
    """The spec of one source from its plain values."""
    parsed: Source = TypeAdapter(Source).validate_python(values)
    return parsed


__all__ = ["Bundled", "Census", "Files", "GeoArchs4", "Hub", "ScBaseCount", "Source", "Tahoe", "parse_source"]
