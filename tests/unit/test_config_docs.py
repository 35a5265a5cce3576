"""The generated parts of config/ equal the models; ``pytest tests/unit/test_config_docs.py --fix`` writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellmill import config_docs


def _readme(repo: Path) -> tuple[Path, str]:
    path = repo / "config" / "README.md"
    head = path.read_text().split(config_docs.START)[0].rstrip()
    return path, f"{head}\n\n{config_docs.START}\n\n{config_docs.tables()}"


def _schema(repo: Path) -> tuple[Path, str]:
    return repo / "config" / "schema.json", config_docs.schema()


@pytest.mark.parametrize("generate", [_readme, _schema])
def test_generated_files_equal_the_models(generate, repo, request):
    """config/README.md and config/schema.json say what the models say."""
    path, expected = generate(repo)
    if request.config.getoption("--fix"):
        path.write_text(expected)
    assert path.read_text() == expected, "run: pytest tests/unit/test_config_docs.py --fix"


def test_every_key_has_a_sentence():
    """No key of any model is without an explanation, but 'kind', which is one."""
    for _, _, model in config_docs.SECTIONS:
        for name, field in model.model_fields.items():
            assert field.description or name == "kind", f"{model.__name__}.{name}"
