"""What embedders that run a model over tokens share: which tokens, which model, which layers, and on what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cellmill.spec import Name, PositiveInt, Spec

Pool = Literal["mean", "first", "last"]
Layers = Annotated[list[Annotated[int, Field(le=0)]], Field(min_length=1)]


class TokenEmbedder(Spec):
    tokenizer: Name
    """Whose tokens, by name in config.yaml: those that the model was trained on."""
    model: str = Field(min_length=1)
    """Folder of the model: its `config.json` and weights; what the ledger has below `resources/` is fetched."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the vectors in the file."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs; `cuda` asks the cluster for one GPU per part."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of the model's numbers; `null`: float32 on the CPU, bfloat16 on a GPU. Pooling is in float32 in any case."""
    batch_tokens: PositiveInt = 65_536
    """Tokens at once on a GPU, padding included; the CPU takes a cell at a time."""

    @property
    def learns(self) -> bool:
        """Whether a model is fitted before parts are embedded."""
        return False

    @property
    def gpus(self) -> int:
        """GPUs that a part needs."""
        return int(self.device == "cuda")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of tokens that the model reads: ids, and where it has them, a value for each."""
        return ("input_ids",)

    @property
    def pool(self) -> Pool:
        """How the vectors of a cell's tokens become one."""
        raise NotImplementedError
