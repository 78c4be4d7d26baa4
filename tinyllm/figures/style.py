"""House style: sizes, colours, names and order of arms and datasets; shared plots; `save`.

Three arms are in colour (Okabe and Ito's palette), the others grey; marker and line style
distinguish arms without colour. The same numbers give the same bytes: no dates, matplotlib's font.
"""

import hashlib
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from IPython.display import Image as Picture
from IPython.display import Markdown, display
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas.io.formats.style import Styler
from PIL import Image

from tinyllm import paths

PAGE = 5.5  # inches: the width of NeurIPS text
INK, GREY, PALE = "#333333", "#7F7F7F", "#E4E4E4"
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"  # fine-tuning, TinyLLM, best teacher
TEXT, SMALL = 7.5, 7  # points, in a figure printed at full size
STYLE = {
    "font.family": "DejaVu Sans",
    "text.hinting": "none",  # text has the same width at every resolution
    **dict.fromkeys(("font.size", "axes.labelsize"), TEXT),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), SMALL),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.titlesize": TEXT,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.1,
    "lines.markersize": 4.5,
    "figure.dpi": 150,
    "savefig.dpi": 250,
    "pdf.fonttype": 42,  # text stays text
}
# Use matplotlib's own fonts: the system may have other DejaVu fonts, or an incomplete cache.
fonts = font_manager.fontManager
fonts.ttflist = [font for font in fonts.ttflist if not font.name.startswith("DejaVu")]
for font in sorted(Path(mpl.get_data_path(), "fonts", "ttf").glob("*.ttf")):
    fonts.addfont(font)
mpl.rcParams.update(STYLE)  # a notebook that imports this module draws in the house style
METADATA = {  # leaves out what would differ between two runs
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "ModDate": None},
}
DATASETS = {  # in the order of figures
    "obqa": "OpenBookQA",
    "arc": "ARC-Challenge",
    "piqa": "PIQA",
    "riddle": "RiddleSense",
    "pubmedqa": "PubMedQA",
    "bioasq": "BioASQ",
    "mean": "mean",
    "micro": "micro world (control)",
}
TEACHERS = {"flan-t5": "FLAN-T5", "llama2": "LLaMA-2", "a": "teacher A", "b": "teacher B"}
ARMS = (  # in the order of figures: pattern, name, marker; `:xN` and `+lora` are added
    (r"inference", "no training", "X"),
    (r"finetune", "fine-tuning", "s"),
    (r"lora.*", "fine-tuning, LoRA", "v"),
    (r"kd.*", "standard KD", "P"),
    (r"dss:(.+)", "one teacher ({})", "^"),
    (r"tinyllm", "TinyLLM", "o"),
    (r"tinyllm-(.+)", "TinyLLM without {}", "d"),
    (r"tinyllm:no-examples", "TinyLLM, no examples", "d"),
    (r"tinyllm:no-forcing", "TinyLLM, gold not shown", "d"),
    (r"tinyllm:repaired", "TinyLLM, repaired", "o"),
    (r"tinyllm:alpha-auto", "TinyLLM, alpha by losses", "o"),
    (r"tinyllm:routed-similar", "most similar rationale", "h"),
    (r"tinyllm:routed-quality", "best rationale by rules", "h"),
    (r"tinyllm:routed-random", "random rationale", "h"),
    (r"tinyllm:(shuffled|scrambled)", "TinyLLM, {}", "D"),
    (r"tinyllm:gibberish", "TinyLLM, gibberish", "D"),
    (r"teacher:(.+), (\d+)-shot", "{}, {}-shot", "*"),
)
DASHES = {"s": "-.", "o": "-", "^": "--"}  # by marker


class Drawing(Figure):
    """A figure that a notebook shows as a small PNG with its caption, without global state."""

    caption = ""  # `save` sets it

    def _ipython_display_(self) -> None:
        display(Picture(self._repr_png_()))
        if self.caption:
            display(Markdown(self.caption))

    def _repr_png_(self) -> bytes:
        stream, small = io.BytesIO(), io.BytesIO()
        _laid_out(self)
        self.savefig(stream, format="png", dpi=STYLE["figure.dpi"], metadata=METADATA["png"])
        # 255 colours are enough for a drawing, and keep notebooks small.
        Image.open(stream).convert("RGB").quantize(255).save(small, format="png", optimize=True)
        return small.getvalue()


def grid(panels: int, columns: int, width: float, height: float, **kwargs) -> tuple:
    """A figure with `panels` axes, `columns` per row, each row `height` inches; axes in a list."""
    columns = min(columns, panels)
    rows = math.ceil(panels / columns)
    figure = Drawing(figsize=(width, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs).ravel().tolist()
    for spare in axes[panels:]:
        spare.remove()
    for axis in axes[max(panels - columns, 0) : panels]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
    return figure, axes[:panels]


def _arm(arm: str) -> tuple[int, str, str]:
    """Place in ARMS, display name and marker of an arm."""
    method, lora, _ = arm.partition("+lora")
    method, passes = re.fullmatch(r"(.*?)(?::x(\d+))?", method).groups()
    more = f", {passes}x epochs" if passes else ""
    for place, (pattern, name, marker) in enumerate(ARMS):
        if match := re.fullmatch(pattern, method):
            words = map(teacher_name, match.groups())
            return place, name.format(*words) + more + (", LoRA" if lora else ""), marker
    return len(ARMS), arm, "."


def arm_name(arm: str) -> str:
    """Display name of an arm; an unknown name is returned unchanged."""
    return _arm(arm)[1]


def teacher_name(uri: str) -> str:
    """Display name of a teacher, by its URI or the name part of it: the model without its owner."""
    name = uri.partition("#")[2] or uri.partition(":")[2] or uri
    name = name.rstrip("/").rpartition("/")[2]
    return TEACHERS.get(name, name)


def dataset_name(dataset: str) -> str:
    """Display name of a dataset; an unknown name is returned unchanged."""
    return DATASETS.get(dataset, dataset)


def in_order(arms: Iterable[str]) -> list[str]:
    """Distinct arms in the order that all figures use."""
    return sorted(set(arms), key=lambda arm: (_arm(arm)[0], arm))


def datasets_in_order(datasets: Iterable[str]) -> list[str]:
    """Distinct datasets in the order that all figures use; unknown ones last."""
    names = set(datasets)
    return sorted(names, key=[*DATASETS, *sorted(names)].index)


def look(arm: str, best: str | None = None) -> dict:
    """Color, marker and linestyle of an arm; best: the single-teacher arm drawn in green."""
    colors = {best: GREEN, "finetune": BLUE, "tinyllm": VERMILLION}
    color = BLUE if arm.startswith("finetune:x") else colors.get(arm, GREY)
    marker = _arm(arm)[2]
    if marker == "^" and best not in (None, arm):
        marker = ">"  # another single teacher
    return {"color": color, "marker": marker, "linestyle": DASHES.get(marker, ":")}


def interval(axis: Axes, x, y, low, high, across: bool = False, **how) -> None:
    """Points with intervals, along x if `across`; `how` goes to Axes.errorbar."""
    middle = np.asarray(x if across else y, dtype=float)
    ends = np.clip([middle - low, high - middle], 0, None).reshape(2, -1)
    how = {"linestyle": "none", "elinewidth": 1.3, "capsize": 0, **how}
    axis.errorbar(x, y, **{"xerr" if across else "yerr": ends}, **how)


def estimates(axis: Axes, table: pd.DataFrame, value: str, arms: list[str], best=None) -> None:
    """One row per arm from the top: its estimate with interval, and its seeds as dots below it.

    table: one row per arm: arm, `value`, low, high, by_seed, as fractions of 1. If it has a
        `verdict`, only points that are better or worse are filled. best: see `look`.
    """
    for line in table.to_dict("records"):
        row = len(arms) - 1 - arms.index(line["arm"])
        how = look(line["arm"], best) | {"linestyle": "none"}
        if line.get("verdict", "better") not in ("better", "worse"):
            how["mfc"] = "white"
        x, low, high = (100 * line[name] for name in (value, "low", "high"))
        interval(axis, x, row, low, high, across=True, **how)
        seeds = 100 * np.asarray(line["by_seed"], dtype=float)
        axis.plot(seeds, [row - 0.3] * len(seeds), ".", color=GREY, ms=2.5)
    axis.set_ylim(-0.6, len(arms) - 0.4)
    axis.set_yticks(range(len(arms)), [arm_name(arm) for arm in arms[::-1]])
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def sample(part: pd.DataFrame) -> str:
    """Questions and seeds of a panel for its title: `n = 500, 3 seeds`."""
    low, high = part["seeds"].min(), part["seeds"].max()
    seeds = f"{low} to {high} seeds" if low < high else f"{low} seed{'s' if low > 1 else ''}"
    return f"n = {part['n'].max()}, {seeds}"


def _laid_out(figure: Figure) -> None:
    """Fix the layout of a finished figure: later drawings are identical, and faster."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(figure: Drawing, name: str, numbers: pd.DataFrame, caption: str) -> Drawing:
    """Write NAME.png, NAME.pdf, NAME.csv (the numbers) and NAME.caption.md; return the figure."""
    folder = paths.figures()
    folder.mkdir(parents=True, exist_ok=True)
    _laid_out(figure)
    for kind, metadata in METADATA.items():
        figure.savefig(folder / f"{name}.{kind}", metadata=metadata)
    numbers = numbers.map(
        lambda cell: " ".join(f"{x:.6g}" for x in cell) if isinstance(cell, list) else cell
    )
    numbers.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    figure.caption = caption.strip()
    (folder / f"{name}.caption.md").write_text(figure.caption + "\n", encoding="utf-8")
    return figure


def table(frame: pd.DataFrame, digits: int = 1) -> Styler:
    """A frame as notebooks show it: no index, text left-aligned, numbers with `digits` decimals."""
    texts = [name for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    wide = {"text-align": "left", "white-space": "pre-wrap"}
    shown = frame.style.hide().format(precision=digits, na_rep="", thousands=",")
    shown.set_uuid(hashlib.sha256(frame.to_csv().encode()).hexdigest()[:8])  # the same each time
    return shown.set_properties(subset=texts, **wide).set_table_styles(
        [{"selector": "th", "props": "text-align: left"}]
    )
