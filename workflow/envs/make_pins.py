"""``make pins``: explicit locks beside the environments, ``<env>.linux-64.pin.txt``: packages by address and md5.

Snakemake installs such a file in place of the environment's own, so that any machine gets the same builds on any day.
They can only be made where the channels can be reached; as for conda, CONDA_CHANNEL_ALIAS says where these are.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from rattler import RepoDataRecord

HERE = Path(__file__).parent
PLATFORM = "linux-64"
BUILT_FOR_CPU_OR_GPU = {"pytorch"}
"""A pin holds one build of these; without one, conda takes that which fits the node."""


def pin_of(environment: Path) -> Path:
    """Where Snakemake looks for the pin of an environment."""
    return environment.with_name(f"{environment.stem}.{PLATFORM}.pin.txt")


def stale(folder: Path) -> list[str]:
    """Pins that were made of another state of their environment, or whose environment is gone."""
    found = {pin_of(path): head(path) for path in folder.glob("*.yaml")}
    return [p.name for p in sorted(folder.glob("*.pin.txt")) if p.read_text().partition("\n")[0] != found.get(p)]


def head(environment: Path) -> str:
    return f"# {environment.name}, sha256 {hashlib.sha256(environment.read_bytes()).hexdigest()}. Made by `make pins`."


def pin(environment: Path, *, cuda: str | None, glibc: str) -> str:
    """The text of a pin: what conda would install on a node with this glibc, and this CUDA where there is one.

    Raises:
        ValueError: a `pip:` section, which Snakemake would leave out where there is a pin.
        rattler.exceptions.SolverError, GatewayError: no solution, a channel that cannot be reached.
    """
    said = yaml.safe_load(environment.read_text())
    if not all(isinstance(spec, str) for spec in said["dependencies"]):
        raise ValueError(f"{environment.name} has a section `pip:`, which Snakemake leaves out where there is a pin.")
    channels = [name for name in said["channels"] if name != "nodefaults"]
    records = asyncio.run(_solved(said["dependencies"], channels, cuda=cuda, glibc=glibc))
    without = [r.file_name for r in records if r.md5 is None]
    if without:
        raise ValueError(f"{environment.name}: no md5 of {', '.join(without)} in the channel's index.")
    lines = [head(environment), f"# platform: {PLATFORM}", "@EXPLICIT"]
    return "\n".join([*lines, *(f"{r.url}#{r.md5.hex()}" for r in records if r.md5)]) + "\n"


async def _solved(specs: list[str], channels: list[str], *, cuda: str | None, glibc: str) -> list[RepoDataRecord]:
    from rattler import (
        BuildString,
        Channel,
        ChannelConfig,
        GenericVirtualPackage,
        PackageName,
        PackageRecord,
        Version,
        solve,
    )

    alias = os.environ.get("CONDA_CHANNEL_ALIAS")
    node = {"__unix": "0", "__linux": "4.18", "__glibc": glibc, "__archspec": "1"} | ({"__cuda": cuda} if cuda else {})
    records = await solve(
        sources=[Channel(name, ChannelConfig(channel_alias=alias) if alias else None) for name in channels],
        specs=specs,
        platforms=[PLATFORM, "noarch"],
        virtual_packages=[
            GenericVirtualPackage(PackageName(n), Version(v), BuildString("x86_64" if n == "__archspec" else "0"))
            for n, v in node.items()
        ],
    )
    by_name = {record.name.normalized: record for record in records}
    return [by_name[record.name.normalized] for record in PackageRecord.sort_topologically(records)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make pins", description=__doc__)
    parser.add_argument("environments", nargs="*", type=Path, metavar="ENV.yaml", help="default: all of workflow/envs")
    parser.add_argument("--cuda", help=f"the driver's, as in 12.8; pins {', '.join(BUILT_FOR_CPU_OR_GPU)} for GPUs")
    parser.add_argument("--glibc", default="2.28", help="of the oldest node; default: %(default)s")
    asked = parser.parse_args()
    made = {}
    for path in asked.environments or sorted(HERE.glob("*.yaml")):
        names = {str(spec).split()[0] for spec in yaml.safe_load(path.read_text())["dependencies"]}
        if (kinds := names & BUILT_FOR_CPU_OR_GPU) and not asked.cuda:
            print(f"{path.name}: no pin without --cuda, as it would hold a build of {', '.join(kinds)} for CPUs")
            continue
        made[pin_of(path)] = pin(path, cuda=asked.cuda, glibc=asked.glibc)
    for path, text in made.items():
        path.write_text(text)
        print(f"{path.name}: {len(text.splitlines()) - 3} packages")
    return 0


if __name__ == "__main__":
    status = 1
    try:
        status = main()
    except Exception as error:
        print(f"make pins: {error}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(status)  # py-rattler's threads crash an interpreter at its normal end, now and then
