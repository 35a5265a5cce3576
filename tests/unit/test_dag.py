"""Thousands of parts: every job in one group, Snakemake's own checks in less time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from cellmill.operations.dag import circular, look_up_inputs

WORKFLOW = """
import sys
sys.path.insert(0, {src!r})
from snakemake.dag import DAG
from snakemake.exceptions import WorkflowError
from cellmill.operations.dag import mend_groups
mend_groups(DAG, WorkflowError)

def parts(wildcards):
    return expand("{{p}}.c", p=open(checkpoints.plan.get().output[0]).read().split())

rule all:
    input: parts

checkpoint plan:
    output: "plan.txt"
    shell: "false"

rule a:
    output: "{{p}}.a"
    group: "parts"
    shell: "touch {{output}}"

rule b:
    input: "{{p}}.a"
    output: "{{p}}.b"
    group: {between!r}
    shell: "touch {{output}}"

rule c:
    input: {needs!r}
    output: "{{p}}.c"
    group: "parts"
    shell: "touch {{output}}"
"""


def planned(repo: Path, folder: Path, *, between: str = "parts") -> subprocess.CompletedProcess[str]:
    """A dry run over 20 parts, four to a group, where the plan says which there are."""
    needs = ["{p}.b"] if between == "parts" else ["{p}.a", "{p}.b"]
    text = WORKFLOW.format(src=str(repo / "src"), between=between, needs=needs)
    (folder / "Snakefile").write_text(text)
    (folder / "plan.txt").write_text("\n".join(map(str, range(20))))
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--group-components", "parts=4"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def groups_of(said: str) -> list[list[str]]:
    """The outputs of each group's jobs, of what a dry run prints."""
    found = re.split(r"^\[.*\] Group job .*$", said, flags=re.MULTILINE)[1:]
    return [re.findall(r"^ +output: (\S+)$", text, flags=re.MULTILINE) for text in found]


def test_a_circle_between_groups_is_found() -> None:
    """a and c start together, and c waits for b, which waits for a; apart they are a chain."""
    needs = {"a": [], "b": ["a"], "c": ["b"]}
    assert not circular(needs, {})
    assert not circular(needs, {"a": 1, "b": 1})
    assert not circular(needs, {"a": 1, "b": 1, "c": 1})
    assert circular(needs, {"a": 1, "c": 1})
    assert circular({"a": [], "b": ["a"], "c": [], "d": ["c"]}, {"a": 1, "d": 1, "b": 2, "c": 2})


def test_an_input_is_found_among_thousands() -> None:
    """As in the list itself, also after it grew, and for more lists than are remembered."""

    class Files(list[str]):
        pass

    look_up_inputs(Files, wide=10)
    lists = [Files(f"{n}.{i}" for i in range(5 + n)) for n in range(100)]
    for n, files in [*enumerate(lists)] * 2:
        assert f"{n}.{4 + n}" in files and f"{n + 1}.0" not in files and f"{n}.new" not in files
    lists[50].append("50.new")
    assert "50.new" in lists[50] and "50.0" in lists[50]


def test_after_a_plan_every_job_is_in_one_group_of_the_size_asked_for(repo: Path, tmp_path: Path) -> None:
    """20 parts of three jobs, four parts to a group."""
    done = planned(repo, tmp_path)
    assert done.returncode == 0, done.stderr
    groups = groups_of(done.stdout)
    assert [len(group) for group in groups] == [12] * 5
    assert sorted(output for group in groups for output in group) == sorted(
        f"{part}.{job}" for part in range(20) for job in "abc"
    )


def test_a_group_that_waits_for_itself_is_refused(repo: Path, tmp_path: Path) -> None:
    """a and c start together, and c waits for b of another group, which waits for a."""
    done = planned(repo, tmp_path, between="other")
    assert done.returncode == 1 and "Groups of jobs would wait for each other" in done.stdout + done.stderr
