"""One set of versions: pyproject.toml, the locks and the conda environments say the same."""

from __future__ import annotations

import ast
import re
import runpy
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
ENVS = sorted((ROOT / "workflow" / "envs").glob("*.yaml"))
RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))

# Where conda-forge's name is not PyPI's.
PYPI_NAMES = {
    "matplotlib-base": "matplotlib",
    "python-isal": "isal",
    "python-xxhash": "xxhash",
    "pytorch": "torch",
    "huggingface_hub": "huggingface-hub",
}
# Used where they are installed: hdf5plugin for compressions that h5py has not; deflate is faster than isal.
OPTIONAL = {"hdf5plugin", "deflate"}
USER_EXTRAS = {"workflow", "torch", "models", "cloud", "doublets"}
ASKED_FOR = {
    "snakemake",
    "snakemake-executor-plugin-slurm",
    "anndata",
    "scanpy",
    "scvi-tools",
    "torch",
    "transformers",
    "datasets",
    "huggingface-hub",
    "gcsfs",
    "h5py",
    "pyarrow",
}


def lines(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    """Version by package of a lock."""
    return {canonicalize_name(package): version for package, version in (line.split("==") for line in lines(name))}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def imported(file: Path) -> set[str]:
    """Top-level names of what a source file imports, at its head or within a function."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.split(".")[0] for name in names}


def unmet(requirements: list[str], locked: dict[str, str]) -> list[str]:
    """The requirements that no pin meets."""
    wanted = [Requirement(line) for line in requirements]
    return [str(r) for r in wanted if not r.specifier.contains(locked.get(canonicalize_name(r.name), "0.dev0"))]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock"])
def test_a_lock_is_names_and_exact_versions(lock: str) -> None:
    """No hashes, markers, options, paths or marks of one build, so that the lock holds on any machine."""
    assert [line for line in lines(lock) if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []


def test_torch_stands_first_in_the_lock() -> None:
    """`make setup` installs it first, so that no other package brings another build."""
    assert lines("requirements.lock")[0].startswith("torch==")


def test_what_the_project_needs_is_locked_within_its_range() -> None:
    """Dependencies and the extras of users stand in requirements.lock."""
    extras = project()["project"]["optional-dependencies"]
    wanted = project()["project"]["dependencies"] + [r for name in USER_EXTRAS for r in extras[name]]
    assert unmet(wanted, pins("requirements.lock")) == []


def test_what_tests_need_is_locked_within_its_range() -> None:
    """The other extras and dependency groups stand in one of the two locks."""
    groups = {**project()["project"]["optional-dependencies"], **project()["dependency-groups"]}
    wanted = [r for name in groups.keys() - USER_EXTRAS for r in groups[name]]
    assert unmet(wanted, pins("requirements.lock") | pins("requirements-test.lock")) == []


def test_what_the_library_imports_is_a_dependency() -> None:
    """Named in pyproject.toml, not only brought along by another package."""
    extras = project()["project"]["optional-dependencies"]
    wanted = project()["project"]["dependencies"] + [r for name in USER_EXTRAS for r in extras[name]]
    names = set().union(*(imported(file) for file in (ROOT / "src").rglob("*.py")))
    names -= sys.stdlib_module_names | OPTIONAL | {"cellmill", "pydantic_core"}
    packages = {canonicalize_name(packages_distributions().get(name, [name])[0]) for name in names}
    assert packages - {canonicalize_name(Requirement(line).name) for line in wanted} == set()


def test_everything_that_was_asked_for_is_installed() -> None:
    """The packages that users find after `make setup`, by name."""
    assert ASKED_FOR - pins("requirements.lock").keys() == set()


def test_users_get_nothing_that_only_tests_need() -> None:
    """No package stands in both locks, and the libraries compared against are in the second alone."""
    assert pins("requirements.lock").keys() & pins("requirements-test.lock").keys() == set()
    assert {"mosaicml-streaming", "bionemo-scdl", "pytest"} <= pins("requirements-test.lock").keys()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock"])
def test_no_lock_holds_torchvision_or_parts_of_a_cuda_build(lock: str) -> None:
    """torchvision of another build breaks transformers; what a CUDA build needs comes with torch itself."""
    assert [name for name in pins(lock) if re.match(r"torchvision|nvidia-|cuda-|triton", name)] == []


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_a_conda_environment_has_the_versions_of_the_lock(path: Path) -> None:
    """Every package is pinned exactly, so that a rule computes the same with and without conda."""
    packages = [entry.split(" ") for entry in yaml.safe_load(path.read_text())["dependencies"]]
    locked = pins("requirements.lock")
    found = {name: version for name, version in packages if name != "python"}
    assert found == {name: f"=={locked[PYPI_NAMES.get(name, name)]}" for name in found}


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_a_conda_environment_has_a_python_that_the_project_runs_on(path: Path) -> None:
    """`python =3.11` and the like."""
    (python,) = (e for e in yaml.safe_load(path.read_text())["dependencies"] if e.startswith("python "))
    assert SpecifierSet(project()["project"]["requires-python"]).contains(python.removeprefix("python ="))


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_a_conda_environment_comes_from_conda_forge_alone(path: Path) -> None:
    """No `pip:` section: a pin file beside the environment would switch it off without a word."""
    environment = yaml.safe_load(path.read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert all(isinstance(entry, str) for entry in environment["dependencies"])


def test_a_pin_is_made_of_the_environment_beside_it(tmp_path: Path) -> None:
    """Snakemake takes a pin in place of the environment: one of another state would bring other versions."""
    make_pins = runpy.run_path(str(ROOT / "workflow" / "envs" / "make_pins.py"))
    assert make_pins["stale"](ROOT / "workflow" / "envs") == []
    environment = tmp_path / "core.yaml"
    environment.write_text("dependencies: [python =3.11]\n")
    pin = make_pins["pin_of"](environment)
    assert pin.name == "core.linux-64.pin.txt"
    pin.write_text(make_pins["head"](environment) + "\n@EXPLICIT\n")
    assert make_pins["stale"](tmp_path) == []
    environment.write_text("dependencies: [python =3.12]\n")
    assert make_pins["stale"](tmp_path) == [pin.name]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_environment_that_a_rule_names_exists(path: Path) -> None:
    """`conda:` is a path from the rule file."""
    named = re.findall(r"""^\s*conda:\s*["'](.+?)["']""", path.read_text(), flags=re.MULTILINE)
    assert [env for env in named if not (path.parent / env).is_file()] == []


def test_every_environment_is_named_by_a_rule() -> None:
    """An environment of no rule is not tested by any run."""
    text = "".join(path.read_text() for path in RULES)
    assert [env.name for env in ENVS if f"../envs/{env.name}" not in text] == []


def test_the_citation_names_this_version() -> None:
    """CITATION.cff and src/cellmill/__init__.py."""
    from cellmill import __version__

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
