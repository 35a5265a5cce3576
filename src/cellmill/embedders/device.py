"""Where a model runs: the device, its name, and its faults as errors that say which part they hit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda"]
_FAULT = re.compile("CUDA|CUBLAS|cuDNN|CUDNN|NCCL")
"""In the messages of PyTorch and of NVIDIA's libraries."""


def find_device(device: Device, where: object) -> torch.device:
    """The device by name.

    Raises:
        CellmillError: there is no GPU; ``where`` says what asked for it.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise CellmillError(
            where,
            "asked for device 'cuda', and PyTorch finds no GPU here.",
            "Run it on a GPU node (profiles/slurm/config.yaml), or with device: cpu.",
        )
    return torch.device(device)


def described(device: torch.device) -> str:
    """The device in words: vectors are the same to the last bit on the same device only."""
    import torch

    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})"


@contextmanager
def faults_told(where: object) -> Iterator[None]:
    """What a GPU does not survive becomes an error of ``where``; nothing can be saved in the same process.

    Raises:
        CellmillError: the device failed, or its memory was full with the smallest batch.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CellmillError(
            where,
            f"the smallest batch does not fit into the GPU's memory ({_first(error)}).",
            "Take a GPU with more memory, fewer tokens per cell or cells per step, or device: cpu.",
        ) from error
    except RuntimeError as error:
        if not _FAULT.search(str(error)):
            raise
        raise CellmillError(
            where,
            f"the GPU failed ({_first(error)}).",
            "A new process tries again; if that fails, too, `nvidia-smi` and `dmesg` may say what is wrong with it.",
        ) from error


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
