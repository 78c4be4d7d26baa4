"""Questions: one record type, four sources, and the same three splits from each."""
