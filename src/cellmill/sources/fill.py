"""``cellmill fetch``: fill a mirror on a machine that has internet, for machines that have not."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cellmill.config import Project
from cellmill.contracts.plan import Plan, plan_file, read_plan
from cellmill.files import format_bytes, inside, replacing
from cellmill.genes.files import gene_list, gene_set_files, gene_table
from cellmill.sources import Source
from cellmill.sources.census import Census
from cellmill.sources.fetch import SUMS_FILE, read_sums, redacted
from cellmill.sources.files import Files
from cellmill.sources.ledger import LEDGER, Ledger
from cellmill.sources.parallel import Wanted, fetch_all, refuse_full_disk
from cellmill.sources.plan import plan_dataset
from cellmill.sources.scbasecount import ScBaseCount
from cellmill.sources.stores import is_address
from cellmill.sources.tahoe import Tahoe


def fill_mirror(project: Project, to: Path) -> str:
    """Fetch every outside file of the datasets of a project into a mirror, as ``<host or bucket>/<path>``.

    These are the files of their parts, catalogues, gene tables, tables that are joined and published
    vocabularies. What the mirror has already,
    by its ``SHA256SUMS``, is not fetched again; the list is written when all is there, and keeps what else it names.

    Returns:
        A sentence that says what was done.

    Raises:
        CellmillError: what ``fetch`` raises, or a full disk; what is whole by then is found by the next call.
    """
    sums_file = to / SUMS_FILE
    sums = read_sums(sums_file) if sums_file.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        wanted = {w.address: w for w in _wanted(project, to, Path(folder))}
        missing = [w for w in wanted.values() if not _has(sums, to, w)]
        needed = sum(w.bytes or 0 for w in missing) - sum(w.there for w in missing)
        refuse_full_disk(to, needed=needed, what=f"{len(missing)} files")
        found = fetch_all(missing, mirror=None, download=project.config.download)
    new = {_name(f.address): f.sha256 for f in found}
    if found or not sums_file.is_file():
        with replacing(sums_file) as aside:
            aside.write_text("".join(f"{sha256}  {name}\n" for name, sha256 in sorted({**sums, **new}.items())))
    size = format_bytes(sum(f.bytes for f in found))
    return f"{to}: {len(found):,} files fetched ({size}), {len(wanted) - len(missing):,} were there."


def _name(address: str) -> str:
    """Where a file stands in a mirror."""
    return redacted(address).partition("://")[2].removesuffix("?…")


def _has(sums: dict[str, str], to: Path, wanted: Wanted) -> bool:
    path = wanted.path
    if _name(wanted.address) not in sums or not path.is_file():
        return False
    kind, _, value = (wanted.checksum or "").partition(":")
    same = kind != "sha256" or sums[_name(wanted.address)] == value
    return same and wanted.bytes in (None, path.stat().st_size)


def _wanted(project: Project, to: Path, scratch: Path) -> list[Wanted]:
    """Every outside file of the datasets."""
    ledger, files = Ledger(LEDGER), list[Wanted]()

    def add(address: str, checksum: str | None, size: int | None, billed: str | None = None) -> None:
        if is_address(address):
            path = inside(to, _name(address))
            files.append(Wanted(address, path, checksum, size, billed, scratch / f"{len(files)}.sha256"))

    for name, dataset in project.datasets.items():
        source, genes = dataset.source, dataset.genes
        resources = {*gene_table(genes.table, dataset.organism), *gene_list(genes.space), *gene_set_files(genes.sets)}
        for join in dataset.join:
            add(join.table, None, None)
        if source.planned:
            billed = source.requester_pays if isinstance(source, ScBaseCount | Tahoe) else None
            if isinstance(source, ScBaseCount):
                add(source.catalogue_address, None, None, billed)
            for address in _catalogues(source):
                add(address, None, None)
            plan = _plan(project, name, scratch)
            for member in plan.members:
                add(member.address, member.checksum, member.bytes, billed)
            if table := plan.facts.get("gene_table"):
                add(table["address"], table["checksum"], table["bytes"])
        elif isinstance(source, Files):
            for part, address in source.files.items():
                known, sha256 = ledger.by_address(address), source.sha256.get(part)
                sha256 = sha256 or (known.sha256 if known else None)
                add(address, f"sha256:{sha256}" if sha256 else None, known.bytes if known else None)
        for tokenizer in project.tokenizers_of(name):
            resources.update(project.config.tokenizers[tokenizer].needs().values())
        for resource in sorted(r.removeprefix("resources/") for r in resources if r.startswith("resources/")):
            entry = ledger.entry(resource)
            add(entry.address, f"sha256:{entry.sha256}" if entry.sha256 else None, entry.bytes)
    return files


def _catalogues(source: Source) -> list[str]:
    """What is read beside the members, to plan or to say more of the cells."""
    if isinstance(source, Tahoe):
        return list(source.tables.values())
    return source.catalogue_addresses if isinstance(source, Census) else []


def _plan(project: Project, dataset: str, scratch: Path) -> Plan:
    """The plan that is there, else one that is made here."""
    path = plan_file(dataset)
    if path.is_file():
        return read_plan(path)
    return plan_dataset(project.datasets[dataset].source, scratch / f"{dataset}.tsv", mirror=None)
