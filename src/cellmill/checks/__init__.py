"""Is it as it was written, and does it hold what it was made from? One reader per format of export.

A reader is a module of this folder, called as the format, with two functions or more:

- ``read(folder, split, said)`` yields the cells of a split as ``Rows``, in the order in which they stand there,
  with the column ``cell_id`` and others under names of its own; it raises ``UnreadableError``.
  ``said`` is the manifest.
- ``expected(batch, header, said)`` gives what ``read`` must give of a batch of ``exports.rows.ordered``,
  under the same names; columns that only ``read`` gives are not compared, and that is told.
- ``genes(folder, split)``, where the format has a list of genes, yields each such file and its gene ids.
- ``written(header, said)``, where it may have some genes alone, says which of the gene space.
- ``also(folder, split, said, header, problems)``, where columns depend on other cells, looks at these,
  and gives the names of those that it looked at;
  ``header`` is None where what the export was made from is not at hand.
- ``whole(folder, said, header, problems)``, where files stand beside the splits, looks at these.
"""

from cellmill.checks.check import Checked, check

__all__ = ["Checked", "check"]
