RESERVED_COLUMNS: frozenset[str] = frozenset()
