"""One arm beyond accuracy: classes (F1, confusion), and whether its confidence can be believed.

Intervals are bootstraps over questions, all seeds of a question drawn together. F1 and the
calibration error are no plain means: drawn anew they lie a little off the estimate, so the draws
are centred on it before their percentiles are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
from scipy import special

from tinyllm.stats.arm import option_texts, same_options, wilson
from tinyllm.stats.rows import GROUP, score_matrix

RESAMPLES = 2000


@cache
def _question_weights(n: int, resamples: int) -> np.ndarray:
    """How often each of n questions is drawn: (resamples, n), rows sum to n. Shared by the arms.

    Kept as bytes: a question is drawn about once, never 256 times.
    """
    drawn = np.random.default_rng((0, 0)).integers(n, size=(resamples, n))
    drawn += n * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * n)
    return counts.reshape(resamples, n).astype(np.uint8)


def _interval(estimate: float, drawn: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Percentiles of the draws, centred on the estimate and kept within 0 and 1."""
    low, high = np.quantile(drawn - drawn.mean(), [(1 - confidence) / 2, (1 + confidence) / 2])
    return max(0.0, estimate + min(low, 0.0)), min(1.0, estimate + max(high, 0.0))


def _by_question(rows: pd.DataFrame, cells: np.ndarray, number: int, values: np.ndarray):
    """Sums of `values` (rows) a question and cell: (questions, number of cells)."""
    ids = rows.sort_values(["dataset", "id"]).groupby(["dataset", "id"]).ngroup().loc[rows.index]
    sums = np.zeros((ids.max() + 1, number))
    np.add.at(sums, (ids.to_numpy(), cells), values)
    return sums


# --- classes -----------------------------------------------------------------------------------


def _class_counts(rows: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """The classes (option texts, sorted) and counts (questions, gold x choice), all seeds'."""
    classes = sorted(rows["options"].iloc[0])
    place = {text: index for index, text in enumerate(classes)}
    gold, choice = (
        option_texts(rows, name).map(place).to_numpy(dtype=int) for name in ("gold", "choice")
    )
    cells = gold * len(classes) + choice
    return classes, _by_question(rows, cells, len(classes) ** 2, np.ones(len(rows)))


def _macro_f1(counts: np.ndarray) -> np.ndarray:
    """Macro-F1 of confusion counts (..., gold, choice): the mean over classes that occur at all."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    either = counts.sum(-1) + counts.sum(-2)
    f1 = np.divide(2 * right, either, out=np.zeros_like(right), where=either > 0)
    return f1.sum(-1) / np.maximum((either > 0).sum(-1), 1)


def macro_f1(
    predictions: pd.DataFrame, by: Sequence[str] = GROUP, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Unweighted mean of the classes' F1, a row a group.

    Columns: n, seeds, macro_f1 (mean over seeds), low and high (95%, over questions), std (of the
    seeds). Only for questions with the same options throughout (PubMedQA's yes, no, maybe); a group
    whose options differ has no classes, so its numbers are empty (NaN).
    """
    lines = []
    for key, rows in predictions.groupby(list(by), sort=False):
        wide = score_matrix(rows, "correct")
        line = {**dict(zip(by, key, strict=True)), "n": wide.shape[1], "seeds": len(wide)}
        each, low, high = [np.nan] * len(wide), np.nan, np.nan
        if same_options(rows):
            counts = [_class_counts(part)[1] for _, part in rows.groupby("seed")]
            size = int(np.sqrt(counts[0].shape[1]))
            each = [float(_macro_f1(c.sum(0).reshape(size, size))) for c in counts]
            weights = _question_weights(wide.shape[1], resamples).astype(float)
            drawn = [_macro_f1((weights @ c).reshape(-1, size, size)) for c in counts]
            low, high = _interval(float(np.mean(each)), np.mean(drawn, axis=0))
        spread = float(np.std(each, ddof=1)) if len(each) > 1 else np.nan
        lines.append(
            {**line, "macro_f1": float(np.mean(each)), "low": low, "high": high, "std": spread}
        )
    return pd.DataFrame(lines)


def confusion(predictions: pd.DataFrame, by: Sequence[str] = GROUP) -> pd.DataFrame:
    """What was chosen for each gold class, a row a group, gold and choice.

    Only for questions with the same options throughout; other groups are left out. Columns: gold,
    choice (texts), n (questions with this gold), seeds, questions (so many of them, mean over
    seeds), share (questions / n), low and high (Wilson, over questions). Classes that are never
    gold have n = 0 and no share.
    """
    lines = []
    for key, rows in predictions.groupby(list(by), sort=False):
        if not same_options(rows):
            continue
        score_matrix(rows, "correct")  # refuses what must not be averaged
        seeds = rows["seed"].nunique()
        classes, counts = _class_counts(rows)
        table = counts.sum(0).reshape(len(classes), len(classes)) / seeds
        for gold, line in zip(classes, table, strict=True):
            n = round(line.sum())
            for choice, k in zip(classes, line, strict=True):
                low, high = wilson(k, n) if n else (np.nan, np.nan)
                lines.append(
                    {
                        **dict(zip(by, key, strict=True)),
                        "gold": gold,
                        "choice": choice,
                        "n": n,
                        "seeds": seeds,
                        "questions": k,
                        "share": k / n if n else np.nan,
                        "low": low,
                        "high": high,
                    }
                )
    columns = [*by, "gold", "choice", "n", "seeds", "questions", "share", "low", "high"]
    return pd.DataFrame(lines, columns=columns)


# --- calibration -------------------------------------------------------------------------------


def confidences(predictions: pd.DataFrame) -> pd.Series:
    """How sure of its choice the student says it is: the choice's share in softmax(scores)."""
    return pd.Series(
        [
            special.softmax(np.asarray(scores, dtype=float))[choice]
            for scores, choice in zip(predictions["scores"], predictions["choice"], strict=True)
        ],
        index=predictions.index,
        dtype=float,
    )


def _bins(confidence: pd.Series, bins: int) -> np.ndarray:
    """The bin of each confidence, 0 to bins - 1; the right edge belongs to the bin."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1).to_numpy()


def reliability(
    predictions: pd.DataFrame, by: Sequence[str] = GROUP, bins: int = 10
) -> pd.DataFrame:
    """Bins of a reliability plot, a row a group and filled bin.

    Columns: bin (0 ..), left, right (edges, equally wide, the right one belongs to the bin), rows
    (answers, all seeds'), n (different questions), seeds, confidence and accuracy (means over the
    rows), low and high (Wilson's 95% interval of that accuracy on n questions: seeds that answer
    one question are not counted as further ones).
    """
    sure = confidences(predictions)
    frame = predictions[list(dict.fromkeys([*by, "dataset", "id", "seed"]))].assign(
        bin=_bins(sure, bins),
        confidence=sure,
        right_answer=predictions["correct"].astype(float),
    )
    lines = []
    for key, part in frame.groupby([*by, "bin"], sort=True):
        n, share = len(part[["dataset", "id"]].drop_duplicates()), part["right_answer"].mean()
        low, high = wilson(share * n, n)
        lines.append(
            {
                **dict(zip([*by, "bin"], key, strict=True)),
                "left": key[-1] / bins,
                "right": (key[-1] + 1) / bins,
                "rows": len(part),
                "n": n,
                "seeds": part["seed"].nunique(),
                "confidence": part["confidence"].mean(),
                "accuracy": share,
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(lines)


def ece(
    predictions: pd.DataFrame,
    by: Sequence[str] = GROUP,
    bins: int = 10,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Expected calibration error, a row a group: n, seeds, rows, confidence, accuracy, ece, low,
    high (95%, over questions).

    ece: mean over answers, all seeds', of the distance |accuracy - confidence| of their bin in
    `reliability` (Guo et al. 2017, equation 3).
    """
    lines = []
    for key, part in predictions.groupby(list(by), sort=False):
        wide, sure = score_matrix(part, "correct"), confidences(part)
        right = part["correct"].to_numpy(dtype=float)
        gaps = _by_question(part, _bins(sure, bins), bins, right - sure.to_numpy())
        found = float(np.abs(gaps.sum(0)).sum() / len(part))
        weights = _question_weights(len(gaps), resamples).astype(float)
        low, high = _interval(found, np.abs(weights @ gaps).sum(1) / len(part))
        lines.append(
            {
                **dict(zip(by, key, strict=True)),
                "n": wide.shape[1],
                "seeds": len(wide),
                "rows": len(part),
                "confidence": sure.mean(),
                "accuracy": right.mean(),
                "ece": found,
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(lines)
