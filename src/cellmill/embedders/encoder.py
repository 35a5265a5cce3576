"""A transformer of which only the layers that are needed are kept, and the states of some of them are given."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellmill.embedders.device import Device, find_device
from cellmill.embedders.model_files import CONFIG, weights_of
from cellmill.embedders.rates import encoder_operations, matrix_weights
from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import numpy as np
    import torch

UNUSED = ("pooler.",)
"""Weights that a model may lack: nothing here reads what they give."""


class OnDevice:
    """What runs on a CPU or a GPU.

    Raises:
        CellmillError: no such device.
    """

    def __init__(self, folder: str | Path, device: Device) -> None:
        self.device = find_device(device, folder)

    def there(self, array: np.ndarray) -> torch.Tensor:
        """The array as a tensor on the device."""
        import torch

        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)


class Encoder(OnDevice):
    """Token ids to pooled vectors.

    Args:
        folder: ``config.json`` and weights, as ``save_pretrained`` writes them.
            Safetensors are preferred; PyTorch's own files are read with ``weights_only``.
        layers: 0 is the last layer, -1 the one before it.

    Raises:
        CellmillError: no such device, not a model, weights that do not fit it, or fewer layers than asked for.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        layers: Sequence[int],
        device: Device = "cpu",
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        import torch

        super().__init__(folder, device)
        self._model = _load(Path(folder), getattr(torch, precision)).to(self.device)
        config = self._model.config
        self.n_layers, self.hidden = int(config.num_hidden_layers), int(config.hidden_size)
        self.vocabulary, self.kind = int(config.vocab_size), str(config.model_type)
        self.longest = _longest(self._model)
        self.depths = [self.n_layers + layer for layer in layers]
        """Layers that the tokens have gone through, for each vector; 0: the embeddings alone."""
        if min(self.depths) < 0:
            raise CellmillError(
                folder, f"has {self.n_layers} layers; layer {min(layers)} was asked for.", "Correct 'layers'."
            )
        self._seen = threading.local()
        self._keep(folder)

    @property
    def dimensions(self) -> int:
        return len(self.depths) * self.hidden

    def _keep(self, folder: str | Path) -> None:
        """Drop the layers above the deepest that is asked for, and catch what the others give."""
        import torch

        stacks = [m for m in self._model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == self.n_layers]
        if len(stacks) != 1:
            raise CellmillError(
                folder,
                f"a model '{self.kind}' with {len(stacks)} stacks of {self.n_layers} layers, expected one.",
                "Take an encoder, such as BERT, RoBERTa, ELECTRA or ModernBERT.",
            )
        (stack,) = stacks
        del stack[max(1, max(self.depths)) :]
        self._run_layers, self._run_weights = len(stack), matrix_weights(stack)

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._seen.states[0] = args[0] if args else kwargs["hidden_states"]

        for depth in set(self.depths):
            if depth == 0:
                stack[0].register_forward_pre_hook(before, with_kwargs=True)
            elif depth < self.n_layers:
                stack[depth - 1].register_forward_hook(self._catch(depth))

    def operations(self, lengths: np.ndarray) -> float:
        """Floating-point operations over cells of so many tokens, in the layers that are run."""
        return encoder_operations(lengths, weights=self._run_weights, layers=self._run_layers, width=self.hidden)

    def _catch(self, depth: int) -> Any:
        def after(_: Any, __: Any, output: Any) -> None:
            self._seen.states[depth] = output[0] if isinstance(output, tuple) else output

        return after

    def pooled(self, ids: np.ndarray, mask: np.ndarray | None, weights: np.ndarray) -> torch.Tensor:
        """Vectors float32 (rows, dimensions) on the device, of one thread's making.

        Args:
            ids: int64 (rows, width); ``mask`` bool, of the same shape; None: every id is a token.
            weights: float32 (rows, width), by which the tokens of a row are added up.
        """
        import torch

        with torch.inference_mode():
            states: dict[int, torch.Tensor] = {}
            self._seen.states = states
            given = {"input_ids": self.there(ids)}
            if mask is not None:
                given["attention_mask"] = self.there(mask.astype("int64"))
            last = self._model(**given, return_dict=True).last_hidden_state
            states.setdefault(self.n_layers, last)
            by = self.there(weights)[:, None, :]
            vectors = [torch.bmm(by, states[depth].float())[:, 0] for depth in self.depths]
            self._seen.states = {}
            return torch.cat(vectors, dim=1)


def _load(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModel
    from transformers.utils import logging

    if not (folder / CONFIG).is_file() or not weights_of(folder):
        raise CellmillError(folder, f"has no {CONFIG}, or no weights.", "Name a folder that holds a model.")
    talk: Any = logging  # untyped
    level = talk.get_verbosity()
    talk.set_verbosity_error()  # it reports heads that are not used
    talk.disable_progress_bar()
    try:
        model, info = AutoModel.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=weights_of(folder)[0].suffix == ".safetensors",
            weights_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # of its config, of safetensors, of torch's unpickler, of a model without sdpa
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise CellmillError(
            folder,
            f"is no model that transformers can load ({first[0]}).",
            "Nothing but tensors is read from it; save it anew with save_pretrained. It must know sdpa attention.",
        ) from error
    finally:
        talk.set_verbosity(level)
        talk.enable_progress_bar()
    missing = sorted(k for k in info["missing_keys"] if not k.startswith(UNUSED))
    wrong = missing + sorted(str(k) for k in info["mismatched_keys"])
    if wrong:
        raise CellmillError(
            folder,
            f"{len(wrong)} weights are missing or of another shape, the first: {wrong[0]}.",
            f"The weights are not those of a '{model.config.model_type}' as {CONFIG} describes it.",
        )
    return model.eval()


def _longest(model: Any) -> int | None:
    """Tokens that the model takes at most; None: any number."""
    most = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    begins = getattr(table, "padding_idx", None)  # RoBERTa counts positions from behind that of padding
    return None if most is None else int(most) - (0 if begins is None else int(begins) + 1)
