"""Where a dataset is published, once somebody asks for it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from cellmill.spec import Spec

Namespace = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Address = Annotated[str, Field(pattern=r"^https?://[^@?#\s]+$")]


class Hub(Spec):
    """Exports as datasets of the Hugging Face Hub."""

    namespace: Namespace
    """User or organisation; the repository is called `<namespace>/<dataset>-<format>-<export>`."""
    public: bool = False
    """A new repository is private unless this says otherwise."""
    update: bool = False
    """Also replace what cellmill did not write, or wrote of another dataset."""


class Zenodo(Spec):
    """`processed/*.h5ad` in one draft of Zenodo; it is published by hand, or by `cellmill publish zenodo --publish`."""

    address: Address = "https://zenodo.org"
    """Of the server; `https://sandbox.zenodo.org` to try it out."""
    creators: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    """Authors, as `Family, Given`."""
    record: Annotated[int, Field(ge=1)] | None = None
    """Number of a draft to use; `null`: the draft of this dataset, else a new one."""


class WebDav(Spec):
    """`processed/*.h5ad` in a folder of a WebDAV server, such as Nextcloud."""

    address: Address
    """Of the folder, in which one is made for the dataset; user and password come from the environment."""
    update: bool = False
    """Also replace files that are there with other content."""


class Publish(Spec):
    """Where the dataset is published, when a target in `published/` is asked for. No run does it by itself."""

    hub: Hub | None = None
    """`snakemake … results/<dataset>/published/hf/<export>.json`: an export to the Hugging Face Hub."""
    zenodo: Zenodo | None = None
    """`snakemake … results/<dataset>/published/zenodo.tsv`: the processed parts to a draft of Zenodo."""
    webdav: WebDav | None = None
    """`snakemake … results/<dataset>/published/webdav.tsv`: the processed parts to a WebDAV folder."""


def parse_target(target: str, values: dict[str, Any]) -> Zenodo | WebDav:
    """Where parts go, from plain values, by its name."""
    return {"zenodo": Zenodo, "webdav": WebDav}[target](**values)
