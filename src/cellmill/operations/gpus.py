"""One GPU for each job of a machine: Snakemake counts GPUs, but does not say which of them a job has."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import MutableMapping
from io import TextIOWrapper
from pathlib import Path

log = logging.getLogger("cellmill")
VISIBLE = "CUDA_VISIBLE_DEVICES"
_HELD: list[TextIOWrapper] = []
"""Locks of this process, open as long as it lives."""


def take_gpu(
    environ: MutableMapping[str, str] = os.environ,
    *,
    n_gpus: int | None = None,
    folder: Path | None = None,
    wait_s: float = 1.0,
) -> str | None:
    """Leave one GPU visible to this process that no other job of the user has here, and wait until there is one.

    Must come before anything of CUDA is used in the process.
    Where ``CUDA_VISIBLE_DEVICES`` names one already, as SLURM sets it, that is taken as it is;
    where it names several, one of these is chosen.
    The lock is the kernel's: it ends with the process, however that ends.

    Args:
        n_gpus: how many the machine has; None: as many as PyTorch counts.
        folder: where the locks are, on a disk of this machine; None: that for temporary files.
        wait_s: seconds between two looks.

    Returns:
        The GPU as ``CUDA_VISIBLE_DEVICES`` names it; None where there is none.
    """
    said = environ.get(VISIBLE)
    names = [str(i) for i in range(_count() if n_gpus is None else n_gpus)] if said is None else said.split(",")
    names = [name.strip() for name in names if name.strip()]
    if not names or (said is not None and len(names) == 1):
        return names[0] if names else None
    base = Path(tempfile.gettempdir()) if folder is None else folder
    owner = f"cellmill-{os.getuid()}-{environ.get('SLURM_JOB_ID', 'here')}"  # SLURM counts GPUs anew in each job
    waiting = False
    while True:
        for name in names:
            lock = (base / f"{owner}-gpu-{name.replace('/', '_')}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            _HELD.append(lock)
            environ[VISIBLE] = name
            log.info("runs on GPU %s of %s", name, ", ".join(names))
            return name
        if not waiting:
            log.info("waits for one of %d GPUs: other jobs have them all", len(names))
            waiting = True
        time.sleep(wait_s)


def _count() -> int:
    """Of the machine, by NVIDIA's management library, which leaves CUDA alone."""
    import torch

    return torch.cuda.device_count()
