"""Drawing questions anew, as every bootstrap here does."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=12)
def question_weights(n: int, resamples: int, seed: tuple[int, int]) -> np.ndarray:
    """How often each of n questions is drawn: (resamples, n), rows sum to n. Shared by the arms.

    Kept as bytes: a question is drawn about once, never 256 times."""
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    drawn += n * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * n)
    return counts.reshape(resamples, n).astype(np.uint8)
