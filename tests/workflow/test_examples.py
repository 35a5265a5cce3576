"""Every example of examples/ runs on what `make run` leaves behind, and learns something."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .project import REPO, Project

EXAMPLES = sorted(path.stem for path in (REPO / "examples").glob("*.py"))


def run(example: str, project: Project, *arguments: str) -> str:
    """What it prints, run from the folder with the results."""
    environment = project.environment() | {"PYTHONPATH": str(project.root / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(REPO / "examples" / f"{example}.py"), *arguments],
        cwd=project.root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_learns(example: str, finished: Project):
    """The loss falls below that of guessing; labels and captions are found more often than by chance."""
    fewer = {
        "masked_genes": ("--epochs", "2"),
        "discrete_diffusion": ("--epochs", "2"),
        "contrastive": ("--epochs", "3"),
    }
    said = run(example, finished, *fewer.get(example, ()))
    if example == "linear_probe":
        ((right,), (guessed,)) = numbers(r"([\d.]+) right", said), numbers(r"([\d.]+) by the most", said)
        assert right > guessed + 0.1, said
    elif example == "contrastive":
        assert numbers(r"epoch \d+: ([\d.]+)", said)[-1] > 0.75, said
    elif example == "discrete_diffusion":
        losses, (guess,) = numbers(r"epoch \d+: loss ([\d.]+)", said), numbers(r"costs ([\d.]+)", said)
        (real,), (drawn,) = numbers(r"([\d.]+) of real cells", said), numbers(r"([\d.]+) of drawn", said)
        assert losses[-1] < losses[0] < guess and abs(real - drawn) < 0.1, said
    else:
        losses, (guess,) = numbers(r"epoch \d+: validation loss ([\d.]+)", said), numbers(r"guessing ([\d.]+)", said)
        assert losses[-1] < guess, said


def test_there_are_examples_and_they_are_short():
    """A newcomer reads one in a sitting."""
    assert {"masked_genes", "discrete_diffusion", "linear_probe", "contrastive"} <= set(EXAMPLES)
    for example in EXAMPLES:
        assert len(Path(REPO / "examples" / f"{example}.py").read_text().splitlines()) < 120
