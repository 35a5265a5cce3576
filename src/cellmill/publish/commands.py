"""``cellmill publish hub | zenodo | webdav``, and what the rules of the same work call."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    from cellmill.contracts.published import PublishedPart
    from cellmill.publish.plan import Plan
    from cellmill.publish.spec import Hub, WebDav, Zenodo

log = logging.getLogger("cellmill")


def add_parser(commands: Any) -> None:
    """Add ``publish`` and its subcommands."""
    publish = commands.add_parser(
        "publish", help="send an export to the Hugging Face Hub, or parts to Zenodo or WebDAV"
    )
    targets = publish.add_subparsers(dest="target", required=True, metavar="TARGET")
    hub = targets.add_parser("hub", help="an export, as a dataset of the Hugging Face Hub; private unless --public")
    hub.add_argument("export", metavar="PATH", help="such as results/pbmc68k/hf/cells")
    hub.add_argument("repo", metavar="NAMESPACE/NAME", help="the repository; it is made where there is none")
    hub.add_argument("--public", action="store_true", help="a new repository is public")
    zenodo = targets.add_parser("zenodo", help="the processed parts of a dataset, in a draft of Zenodo")
    zenodo.add_argument("dataset", metavar="PATH", help="such as results/pbmc68k")
    zenodo.add_argument("--creator", action="append", required=True, metavar="NAME", help="'Family, Given'; repeatable")
    zenodo.add_argument("--record", type=int, metavar="N", help="a draft by its number (default: that of the dataset)")
    zenodo.add_argument("--address", metavar="URL", help="of the server (default: zenodo.org)")
    zenodo.add_argument("--publish", action="store_true", help="publish the record at the end; this is for ever")
    webdav = targets.add_parser("webdav", help="the processed parts of a dataset, in a folder of a WebDAV server")
    webdav.add_argument("dataset", metavar="PATH", help="such as results/pbmc68k")
    webdav.add_argument("address", metavar="URL", help="the folder in which one is made for the dataset")
    for parser in (hub, webdav):
        parser.add_argument("--update", action="store_true", help="also replace what is there and of something else")
    for parser in (hub, zenodo, webdav):
        parser.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")


def run(arguments: argparse.Namespace) -> int:
    """Run one of the subcommands; what was published is written to ``published/`` of the dataset."""
    from cellmill.publish.spec import Hub, WebDav, Zenodo

    options = {"dry_run": arguments.dry_run, "say": print}
    if arguments.target == "hub":
        export = Path(arguments.export)
        out = _dataset_of(export) / "published" / export.parent.name / f"{export.name}.json"
        namespace, _, name = arguments.repo.partition("/")
        hub = _parsed(Hub, namespace=namespace, public=arguments.public, update=arguments.update)
        publish_export(export, hub, out, name=name, **options)
        return 0
    folder = Path(arguments.dataset)
    parts = sorted(folder.glob("processed/*.h5ad"))
    out = folder / "published" / f"{arguments.target}.tsv"
    target: Zenodo | WebDav
    if arguments.target == "zenodo":
        address = {"address": arguments.address} if arguments.address else {}
        target = _parsed(Zenodo, creators=arguments.creator, record=arguments.record, **address)
        options["publish_now"] = arguments.publish
    else:
        target = _parsed(WebDav, address=arguments.address, update=arguments.update)
    publish_parts(parts, target, out, dataset=folder.resolve().name, **_about(folder), **options)
    return 0


def publish_export(
    export: Path, hub: Hub, out: Path, *, name: str | None = None, dry_run: bool = False, say: Any = log.info
) -> None:
    """Send an export to the Hub, and write down what was sent.

    Args:
        export: its folder.
        name: of the repository; ``None``: by dataset, format and export.
        say: what is told what was done, line by line.
    """
    from cellmill.contracts import manifest, published
    from cellmill.publish import hub as target

    said = manifest.read(export)
    repo = f"{hub.namespace}/{name or '-'.join((said['dataset'], *said['export'].split('/')))}"
    plan, sent = target.publish(export, repo=repo, public=hub.public, update=hub.update, dry_run=dry_run)
    if not dry_run:
        published.write_export(out, sent)
    _tell(plan, say, out, dry_run=dry_run)


def publish_parts(
    parts: list[Path],
    target: Zenodo | WebDav,
    out: Path,
    *,
    dataset: str,
    title: str,
    license: str | None = None,
    publish_now: bool = False,
    dry_run: bool = False,
    say: Any = log.info,
) -> None:
    """Send the processed parts, and write the table of their addresses and checksums."""
    import yaml

    from cellmill.contracts import published
    from cellmill.publish import webdav, zenodo
    from cellmill.publish.spec import WebDav

    sent: list[PublishedPart]
    if isinstance(target, WebDav):
        options: dict[str, Any] = {"address": target.address, "update": target.update}
        plan, sent = webdav.publish(parts, dataset=dataset, dry_run=dry_run, **options)
    else:
        about = zenodo.About(dataset, title, tuple(target.creators), license)
        options = {"address": target.address, "record": target.record, "publish_now": publish_now}
        plan, sent = zenodo.publish(parts, about=about, dry_run=dry_run, **options)
    if not dry_run:
        published.write_parts(out, sent)
    _tell(plan, say, out, dry_run=dry_run)
    if not dry_run:
        say("A dataset that begins with these parts:")
        for line in yaml.safe_dump({"source": published.as_source(sent)}, sort_keys=False, width=1000).splitlines():
            say(f"  {line}")


def _tell(plan: Plan, say: Any, out: Path, *, dry_run: bool) -> None:
    for line in plan.lines(done=not dry_run):
        say(line)
    if not dry_run:
        say(f"Written down in {out}")


def _dataset_of(export: Path) -> Path:
    """``results/<dataset>``, in which an export stands."""
    return export.parents[1] if len(export.parts) > 2 else export.resolve().parents[1]


def _about(folder: Path) -> dict[str, Any]:
    """Title and licence, from the configuration beside the results."""
    from cellmill.files import read_json

    if not (folder / "config.json").is_file():
        return {"title": folder.resolve().name}
    said = read_json(folder / "config.json")["dataset"]
    return {"title": said["title"], "license": said["license"]}


def _parsed(model: Any, **values: Any) -> Any:
    """The spec of what was typed; a wrong value is told without pydantic's own words."""
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise CellmillError(place, f"{first['msg']}.", "Correct it: cellmill publish --help") from None
