"""The questions: one record, four sources, the same splits from each."""
