"""A matrix of an h5ad file as it is: counts where all of a block is counts, else its numbers."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from cellmill.matrix.reader import Block, CountsFile, NotCountsError
from cellmill.scdl.archive import ScdlError


class ValuesFile(CountsFile):
    """As ``CountsFile``, but normalised values are read, too: such a block has a floating type instead of uint32.

    Raises:
        ScdlError: while reading, at NaN or infinity; names cell, gene and value.
    """

    def _checked(self, start: int, block: sp.csr_matrix) -> Block:
        try:
            return super()._checked(start, block)
        except NotCountsError as error:
            if self.layout == "csc":
                fix = "Write it as CSR, of which fractions are read: adata.X = adata.X.tocsr()."
                raise ScdlError(self.path, error.found, fix) from error
        bad = ~np.isfinite(block.data)
        if bad.any():
            at = int(np.argmax(bad))
            row = int(np.searchsorted(block.indptr, at, side="right")) - 1
            cell, gene = self.cell_ids[start + row], self.var.index[int(block.indices[at])]
            raise ScdlError(
                self.path,
                f"{self.where} has {block.data[at]} at cell '{cell}' (row {start + row}), gene '{gene}'.",
                "Values must be finite: correct them, or name another matrix.",
            )
        block = block.astype(np.float64 if block.data.dtype.kind in "iu" else block.data.dtype)
        block.sum_duplicates()  # sorts, too
        block.eliminate_zeros()
        return Block(start, block)
