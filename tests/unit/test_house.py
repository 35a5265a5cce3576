"""The house in order: linters, and rules that no linter knows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def _check(repo: Path, *command: str) -> None:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("snakefmt", "--check", "Snakefile", "workflow"),
        ("mypy",),
        ("hadolint", "Dockerfile"),
        ("snakemake", "--lint"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_linters_are_content(repo: Path, command: tuple[str, ...]):
    """What `make lint` runs finds nothing."""
    _check(repo, *command)


def _rules(repo: Path) -> dict[str, str]:
    """Every rule and its text."""
    rules = {}
    for path in sorted((repo / "workflow" / "rules").glob("*.smk")):
        for text in re.split(r"^(?=(?:rule|checkpoint) )", path.read_text(), flags=re.MULTILINE)[1:]:
            rules[re.match(r"\w+ (\w+):", text)[1]] = text
    return rules


def test_every_rule_has_a_script_of_its_name_that_is_one_call(repo: Path):
    """workflow/scripts/ has one short script per rule, without an if, and no other."""
    rules = _rules(repo)
    scripts = {p.stem: p.read_text() for p in (repo / "workflow" / "scripts").glob("*.py")}
    assert set(scripts) == set(rules)
    for name, text in scripts.items():
        assert len(text.splitlines()) <= 25, name
        assert not re.search(r"^\s*(if|for|while|def) ", text, re.MULTILINE), name


def test_every_rule_has_log_benchmark_conda_threads_and_resources(repo: Path):
    """No rule lacks one of them, and logs and benchmarks bear the rule's name."""
    for name, text in _rules(repo).items():
        for directive in ("log:", "benchmark:", "conda:", "threads:", "resources:", "script:"):
            assert f"\n    {directive}" in text, (name, directive)
        assert f'"logs/{name}/' in text and f'"benchmarks/{name}/' in text, name
        assert "message:" not in text and "run:" not in text, name


def test_only_script_py_knows_snakemake(repo: Path):
    """No other module of the library names snakemake's object."""
    for path in (repo / "src").rglob("*.py"):
        if path.name != "script.py":
            assert not re.search(r"\bsnakemake\.[a-z]|import snakemake", path.read_text()), path


def test_the_dag_is_built_without_heavy_imports(repo: Path):
    """Reading the configuration imports neither torch nor scanpy, anndata, numba, pandas or pyarrow."""
    code = (
        "import sys, cellmill.config; "
        "bad = {'torch', 'scanpy', 'anndata', 'numba', 'pandas', 'pyarrow', 'scipy'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "not_asked_for"),
    [
        ("cellmill.script", {"numpy", "pydantic", "yaml"}),
        ("cellmill.quality.splits", {"cellmill.sources", "h5py", "pandas", "scipy.sparse"}),
        ("cellmill.exports.export", {"cellmill.config", "cellmill.sources", "anndata", "matplotlib"}),
    ],
)
def test_a_job_starts_without_what_it_does_not_use(module: str, not_asked_for: set[str]):
    """A run is many short jobs: what all of them, what most, and what exports import."""
    code = f"import sys, {module}; sys.exit(', '.join(sorted({not_asked_for!r} & set(sys.modules))) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
