"""scGPT's encoder in plain PyTorch: gene and value embeddings, post-norm layers, the vector of ``<cls>``.

Facts of the published model (``scgpt/model/model.py``, ``scgpt/tasks/cell_emb.py``; MIT):

- a token is LayerNorm(gene embedding) + LayerNorm(W2 relu(W1 min(value, 512) + b1) + b2);
- layers are PyTorch's post-norm encoder layers with ReLU; flash-attention's ``Wqkv`` is their ``in_proj``;
- the cell is the last state of ``<cls>``, which comes first with the value of padding, divided by its length;
- of the weights, only these parts are used: decoders, discriminators and the embedding of batches come after.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellmill.embedders.device import Device
from cellmill.embedders.encoder import OnDevice
from cellmill.embedders.model_files import SCGPT
from cellmill.embedders.rates import encoder_operations
from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import numpy as np
    import torch

MOST_VALUE = 512.0
SPECIAL = ("<pad>", "<cls>", "<eoc>")
"""Tokens that are appended to a vocabulary without them."""
UNUSED = ("decoder.", "cls_decoder.", "mvc_decoder.", "grad_reverse_discriminator.", "batch_encoder.", "flag_encoder.")
"""Weights that a cell's vector does not depend on."""
NEEDED = ("embsize", "nheads", "d_hid", "nlayers", "pad_value")
SHOWN = 5


class ScGptEncoder(OnDevice):
    """Tokens and values to vectors.

    Args:
        folder: ``args.json``, ``vocab.json`` and ``best_model.pt``, of which nothing but tensors is read.

    Raises:
        CellmillError: no such device, not such a model, or weights that are missing, unknown or of another shape.
    """

    kind = "scgpt"
    longest = None

    def __init__(
        self,
        folder: str | Path,
        *,
        device: Device = "cpu",
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        import torch

        super().__init__(folder, device)
        args_file, vocabulary_file, weights_file = (Path(folder) / name for name in SCGPT)
        args = _read(args_file)
        absent = [key for key in NEEDED if not isinstance(args.get(key), int)]
        if absent:
            raise CellmillError(args_file, f"has no whole number for {', '.join(absent)}.", "Take scGPT's own file.")
        style = args.get("input_emb_style", "continuous")
        if style != "continuous":
            raise CellmillError(
                args_file,
                f"input_emb_style is '{style}', expected 'continuous'.",
                "Only models that read values as numbers can be run.",
            )
        self.n_layers, self.hidden, self._heads = args["nlayers"], args["embsize"], args["nheads"]
        self.pad_value = float(args["pad_value"])
        """Of ``<cls>``, too."""
        self.tokens: dict[str, int] = _read(vocabulary_file)
        for token in SPECIAL:
            self.tokens.setdefault(token, len(self.tokens))
        self.vocabulary, self.dimensions = len(self.tokens), self.hidden
        found = _weights(weights_file)
        shapes = self._shapes(args["d_hid"])
        _check(weights_file, found, shapes)
        self._dtype = getattr(torch, precision)
        self._weights = {name: found[name].to(self.device, self._dtype) for name in shapes}
        self._inner = args["d_hid"]

    def _shapes(self, inner: int) -> dict[str, tuple[int, ...]]:
        """Every weight that is used, by the name of PyTorch's own layers."""
        d = self.hidden

        def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
            return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

        def norm(name: str) -> dict[str, tuple[int, ...]]:
            return {f"{name}.weight": (d,), f"{name}.bias": (d,)}

        shapes = {"encoder.embedding.weight": (self.vocabulary, d), **norm("encoder.enc_norm")}
        shapes |= linear("value_encoder.linear1", d, 1) | linear("value_encoder.linear2", d, d)
        shapes |= norm("value_encoder.norm")
        for i in range(self.n_layers):
            layer = f"transformer_encoder.layers.{i}"
            attention = f"{layer}.self_attn"
            shapes |= {f"{attention}.in_proj_weight": (3 * d, d), f"{attention}.in_proj_bias": (3 * d,)}
            shapes |= linear(f"{attention}.out_proj", d, d)
            shapes |= linear(f"{layer}.linear1", inner, d) | linear(f"{layer}.linear2", d, inner)
            shapes |= norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
        return shapes

    def pooled(self, ids: np.ndarray, mask: np.ndarray | None, values: np.ndarray) -> torch.Tensor:
        """Vectors float32 (rows, dimensions) of length 1 on the device.

        Args:
            ids: int64 (rows, width), ``<cls>`` first; ``mask`` bool, of the same shape; None: every id is a token.
            values: float32 (rows, width).
        """
        import torch
        from torch.nn import functional as F

        with torch.inference_mode():
            keys = None if mask is None else self.there(mask)[:, None, None, :]
            numbers = self.there(values).clamp(max=MOST_VALUE).to(self._dtype)[:, :, None]
            genes = F.embedding(self.there(ids), self._weights["encoder.embedding.weight"])
            hidden = F.relu(self._linear("value_encoder.linear1", numbers))
            levels = self._norm("value_encoder.norm", self._linear("value_encoder.linear2", hidden))
            states = self._norm("encoder.enc_norm", genes) + levels
            for i in range(self.n_layers):
                states = self._layer(i, states, keys, last=i + 1 == self.n_layers)
            return F.normalize(states[:, 0].float(), dim=1)

    def operations(self, lengths: np.ndarray) -> float:
        """Floating-point operations over cells of so many tokens: of the last layer, only ``<cls>`` is followed."""
        d, tokens = self.hidden, float(lengths.sum())
        before, after = 3 * d * d, d * d + 2 * d * self._inner  # weights on both sides of the attention
        whole = encoder_operations(lengths, weights=before + after, layers=1, width=d)
        values, last = 2 * (d + d * d) * tokens, (2 * before + 4 * d) * tokens + 2 * after * len(lengths)
        return values + (self.n_layers - 1) * whole + last

    def _layer(self, i: int, states: torch.Tensor, keys: torch.Tensor | None, *, last: bool) -> torch.Tensor:
        """One encoder layer; of the last one only the first token is asked for."""
        from torch.nn import functional as F

        name = f"transformer_encoder.layers.{i}"
        inner, bias = (self._weights[f"{name}.self_attn.in_proj_{x}"] for x in ("weight", "bias"))
        parts = F.linear(states, inner, bias).view(*states.shape[:2], 3, self._heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if last:
            query, states = query[:, :, :1], states[:, :1]
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=keys).transpose(1, 2).flatten(2)
        states = self._norm(f"{name}.norm1", states + self._linear(f"{name}.self_attn.out_proj", seen))
        more = self._linear(f"{name}.linear2", F.relu(self._linear(f"{name}.linear1", states)))
        return self._norm(f"{name}.norm2", states + more)

    def _linear(self, name: str, states: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional as F

        return F.linear(states, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, name: str, states: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional as F

        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.layer_norm(states, (self.hidden,), weight, bias)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CellmillError(path, f"not readable as JSON ({error}).", "Name a folder with an scGPT model.") from error
    if not isinstance(found, dict):
        raise CellmillError(path, f"is a {type(found).__name__}, expected keys.", "Name a folder with an scGPT model.")
    return found


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """Weights by the names of PyTorch's own layers."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise CellmillError(
            path,
            f"is no file of weights ({first[0]}).",
            "Nothing but tensors is read from it; save the model's state_dict with torch.save.",
        ) from error
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise CellmillError(path, "holds more than tensors by name.", "Save the model's state_dict with torch.save.")
    return {name.replace("Wqkv.", "in_proj_"): tensor for name, tensor in found.items()}


def _check(path: Path, found: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    """Exactly the weights that are needed, and of the others only what is known not to matter."""
    missing = sorted(shapes.keys() - found.keys())
    unknown = sorted(name for name in found.keys() - shapes.keys() if not name.startswith(UNUSED))
    wrong = [
        f"{name} {tuple(found[name].shape)} for {shape}"
        for name, shape in shapes.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    said = [("missing", missing), ("not known", unknown), ("of another shape", wrong)]
    listed = "; ".join(
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}"
        for what, names in said
        if names
    )
    if listed:
        raise CellmillError(
            path,
            f"its weights are not those that args.json and vocab.json describe ({listed}).",
            "Take the three files of one model; models with batch normalisation of their input cannot be run.",
        )
