"""What every source answers whose parts a job plans first."""

from __future__ import annotations

from pathlib import Path

from cellmill.spec import Spec


class Planned(Spec):
    """A source of which a catalogue decides the parts."""

    @property
    def planned(self) -> bool:
        """Whether a job must plan the parts first."""
        return True

    def parts(self) -> list[str]:
        """Names of the parts where they are known; here they never are."""
        return []

    def shown(self, key: str) -> str:
        """What is missing behind a key of ``local_files``, for an error."""
        return f" '{getattr(self, key)}'"

    def local_files(self, base: Path) -> dict[str, Path | None]:
        """Files to look into before anything runs, by config key; None where one is missing."""
        return {}

    def catalogue_files(self) -> list[str]:
        """Local files that decide the parts, so that a newer one is seen."""
        return []

    def problems(self, base: Path) -> list[str]:
        """What else is wrong, as far as can be known before anything runs."""
        return []
