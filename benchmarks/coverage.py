"""Coverage of 95% intervals over questions and seeds (docs/reading.md).

python benchmarks/coverage.py        500 questions, 3 seeds; one line per level of seed noise
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tinyllm.evaluation import paired

QUESTIONS, SEEDS, DRAWS = 500, 3, 4000
QUESTION_SD, REST_SD = 0.181, 0.434  # TinyLLM minus fine-tuning, OpenBookQA, `laptop-whole`


def coverage(seed_sd: float) -> tuple[float, float]:
    """Coverage of all intervals, and of those that detect no seed variance.

    seed_sd: standard deviation between seeds, as a fraction of 1.
    """
    draw, held, narrow = np.random.default_rng(0), [], []
    for _ in range(DRAWS):
        gaps = draw.normal(0, seed_sd, (SEEDS, 1)) + draw.normal(0, QUESTION_SD, (1, QUESTIONS))
        gaps = pd.DataFrame(gaps + draw.normal(0, REST_SD, gaps.shape))
        line = paired.interval(paired.estimate(gaps))
        held.append(line["low"] <= 0 <= line["high"])
        narrow.append(np.isclose(line["df"], QUESTIONS - 1))  # Vs < Vr: question variance only
    return float(np.mean(held)), float(np.mean(np.array(held)[narrow]))


if __name__ == "__main__":
    for points in (0, 1, 2, 3, 5):
        every, alone = coverage(points / 100)
        print(f"seeds differ by {points} points: {every:.1%} of all, {alone:.1%} where Vs < Vr")
