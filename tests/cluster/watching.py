"""Snakemake that looks at its SLURM jobs every second.

The plugin waits ten seconds longer after each look that finds none at its end, and no option changes that: right on a
cluster that many share, and most of the time of a test.
"""

from __future__ import annotations

import asyncio

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _a_second(self: RemoteExecutor) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    assert hasattr(RemoteExecutor, "sleep"), "the plugin waits elsewhere now"
    RemoteExecutor.sleep = _a_second
    main()
