"""Publishing by rules: only where it is asked for, with logins of the environment that are written nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cellmill.contracts import published

from ..unit.fake_hub import TOKEN, Hub
from ..unit.fake_stores import PASSWORD, USER, WebDav
from .project import Project

DATASET = "pbmc68k"
TARGETS = [f"results/{DATASET}/published/hf/cells.json", f"results/{DATASET}/published/webdav.tsv"]


def test_an_export_and_the_parts_are_published_where_they_are_asked_for(
    rerunnable: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """They arrive, a second run does nothing, and no file of the project knows the logins."""
    refused = rerunnable.run(TARGETS[0], expect=1)
    assert "does not say where it is published: add 'publish: {hub: …}'" in refused
    with Hub() as hub, WebDav() as dav:
        said = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        said |= {"HF_HOME": str(tmp_path / "hf"), "WEBDAV_USER": USER, "WEBDAV_PASSWORD": PASSWORD}
        for name, value in said.items():
            monkeypatch.setenv(name, value)
        file = rerunnable.root / "config" / "datasets" / f"{DATASET}.yaml"
        publish = {"hub": {"namespace": "lab"}, "webdav": {"address": f"{dav.address}/data"}}
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"publish": publish}, sort_keys=False))
        assert not {"publish_export", "publish_parts"} & rerunnable.planned().keys()
        assert rerunnable.planned(*TARGETS) == {"publish_export": 1, "publish_parts": 1}
        printed = rerunnable.run(*TARGETS)
        assert rerunnable.planned(*TARGETS) == {}
        export = rerunnable.results(DATASET) / "hf" / "cells"
        there = {n: c for n, c in hub.repos[f"lab/{DATASET}-hf-cells"].files.items() if n != ".gitattributes"}
        assert there == {p.relative_to(export).as_posix(): p.read_bytes() for p in export.rglob("*") if p.is_file()}
        (part,) = published.read_parts(rerunnable.root / TARGETS[1])
        processed = rerunnable.results(DATASET) / "processed" / "0.h5ad"
        assert dav.files == {part.address.removeprefix(dav.address): processed.read_bytes()}
    for path in rerunnable.root.rglob("*"):
        printed += path.read_bytes().decode("latin-1") if path.is_file() and path.suffix != ".nbc" else ""
    assert TOKEN not in printed and PASSWORD not in printed
