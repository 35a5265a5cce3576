"""``model.pt`` of scvi-tools: a pickle, of which tensors, arrays and plain values are read, and nothing is run."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import torch

MODEL = "model.pt"
_SKIPPED = ("anndata", "lightning", "ml_collections", "mudata", "pandas", "pytorch_lightning", "scvi")
"""Packages whose objects stand in such files (the history of the training) and are not read."""
_FIX = "Only tensors, arrays and plain values are read: check its source, and save it anew with SCVI.save."


@dataclass(frozen=True)
class SavedModel:
    """What a file says."""

    path: Path
    var_names: list[str]
    """Its genes, in their order."""
    registry: dict[str, Any]
    """How its data were set up, as scvi-tools keeps it."""
    init: dict[str, Any]
    """Arguments of ``SCVI``."""
    state: dict[str, torch.Tensor]
    """Weights by name."""

    @property
    def setup(self) -> dict[str, Any]:
        """Arguments of ``SCVI.setup_anndata``."""
        return dict(self.registry["setup_args"])

    def field(self, name: str) -> dict[str, Any]:
        """What is known of a field of the data, such as ``batch``; empty where it has none."""
        found: dict[str, Any] = self.registry["field_registries"].get(name, {}).get("state_registry", {})
        return found


class _Unread:
    """In place of an object of another package: it takes what it is given and keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def _empty(*_: Any) -> dict[Any, Any]:
    """In place of a dictionary with defaults, which torch does not fill: a plain one."""
    return {}


def read_model(path: str | PathLike[str]) -> SavedModel:
    """Read a model that ``SCVI.save`` wrote.

    Raises:
        CellmillError: it asks for anything but tensors, arrays and plain values, or is no such model.
    """
    import torch

    file = Path(path)
    if not file.is_file():
        raise CellmillError(file, "there is no such file.", "Name the folder that SCVI.save wrote.")
    if not zipfile.is_zipfile(file):
        raise CellmillError(file, "is no file of PyTorch 1.6 or later.", _FIX)
    try:
        with torch.serialization.safe_globals(_listed(file)):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except CellmillError:
        raise
    except Exception as error:  # of torch's unpickler, of a damaged archive
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CellmillError(file, f"refused: {first}", _FIX) from error
    return _checked(file, loaded)


def _listed(file: Path) -> list[Any]:
    """What the file asks for beyond tensors, each with what it gets: numpy's arrays, and ``_Unread``."""
    import numpy as np
    import numpy._core.multiarray
    import torch

    plain: dict[str, Any] = {f"builtins.{t.__name__}": t for t in (bytes, dict, list, set, tuple)}
    plain |= {
        f"{core}.multiarray.{name}": getattr(np._core.multiarray, name)
        for core in ("numpy.core", "numpy._core")
        for name in ("_reconstruct", "scalar")
    }
    plain |= {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype, "collections.defaultdict": _empty}
    listed: list[Any] = [t for t in vars(np.dtypes).values() if isinstance(t, type)]
    refused = []
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(file):
        if name in plain:
            listed.append((plain[name], name))
        elif name.split(".")[0] in _SKIPPED or name == "builtins.slice":
            listed.append((_Unread, name))
        elif not name.startswith("numpy.dtypes."):
            refused.append(name)
    if refused:
        raise CellmillError(file, f"refused: it asks for {', '.join(sorted(refused))}.", _FIX)
    return listed


def _checked(file: Path, loaded: Any) -> SavedModel:
    """The parts of a file, each of the type that it must have."""
    import numpy as np
    import torch

    def part(of: Any, name: str, type_: type) -> Any:
        value = of.get(name) if isinstance(of, dict) else None
        if not isinstance(value, type_):
            found = "nothing" if value is None else f"a {type(value).__name__}"
            raise CellmillError(file, f"'{name}' is {found}, expected a {type_.__name__}.", _FIX)
        return value

    attributes = part(loaded, "attr_dict", dict)
    registry, init = part(attributes, "registry_", dict), part(attributes, "init_params_", dict)
    name = registry.get("model_name", "SCVI")
    if name != "SCVI" or registry.get("setup_method_name", "setup_anndata") != "setup_anndata":
        made = f"is a model '{name}' by {registry.get('setup_method_name', 'setup_anndata')}."
        raise CellmillError(file, made, "Name an SCVI model that was set up with setup_anndata.")
    part(registry, "setup_args", dict)
    part(registry, "field_registries", dict)
    kwargs = {k: v for group in part(init, "kwargs", dict).values() for k, v in group.items()}
    arguments = part(init, "non_kwargs", dict) | kwargs
    state = dict(part(loaded, "model_state_dict", dict))
    state.pop("pyro_param_store", None)
    for key, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise CellmillError(file, f"the weight '{key}' is a {type(tensor).__name__}.", _FIX)
    names = [str(n) for n in part(loaded, "var_names", np.ndarray)]
    return SavedModel(file, names, registry, arguments, state)
