"""Executed notebooks and figures as one site that opens from disk: `make report`.

    python -m tinyllm.report [FOLDER]      write it (default: runs/report), print where it is

Every page is whole in itself: no script, no font and no style sheet from elsewhere, relative links
only, so the folder can be opened offline, sent as an archive or served as it is. Nothing is run:
notebooks are shown as they were executed, those of runs/ by study and dataset, and the committed
ones in notebooks/ with the outputs that they hold.
"""

from __future__ import annotations

import html
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

from tinyllm import paths, status

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 0; }
header { background: #f3f3f3; border-bottom: 1px solid #ddd; padding: .5rem 1.5rem; }
header a { margin-right: 1.2rem; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
a { color: #0a5ca8; text-decoration: none; } a:hover { text-decoration: underline; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
.anchor-link { display: none; }
pre { font: 13px/1.4 ui-monospace, monospace; margin: 0; overflow-x: auto; }
code { font-size: 13px; }
.highlight { background: #f7f7f7; border: 1px solid #e4e4e4; padding: .4rem .7rem; }
.prompt { display: none; }
.cell { margin: .8rem 0; } .output_subarea { margin: .4rem 0; overflow-x: auto; }
.output_stderr { background: #fdf3f3; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
.table { overflow-x: auto; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #e4e4e4; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.figure { margin: 1.5rem 0; padding-bottom: 1rem; border-bottom: 1px solid #eee; }
.failed { color: #b00020; }
"""


@dataclass(frozen=True)
class Page:
    """A notebook that becomes a page: where it is, whose run it is, what its page is called."""

    source: Path
    run: str  # `STUDY / DATASET`, or empty for the committed notebooks
    name: str  # file name of the page

    @property
    def mark(self) -> str:
        """How far it is, where it is not done."""
        if not self.source.stem.endswith(".failed"):
            return ""
        return "failed" if status.error(self.source) else "not finished"

    @property
    def title(self) -> str:
        return self.source.stem.removesuffix(".failed")


def pages() -> list[Page]:
    """The notebooks to show: executed ones of all runs, then the committed ones."""
    found = []
    for file in sorted(paths.runs().glob("*/*/notebooks/*.ipynb")):
        study, dataset = file.parts[-4:-2]
        name = f"{paths.slug(study)}_{paths.slug(dataset)}_{file.stem}.html"
        found.append(Page(file, f"{study} / {dataset}", name))
    committed = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))
    return found + [Page(file, "", f"{file.stem}.html") for file in committed]


def whole(title: str, body: str, inside: str = "") -> str:
    """A page around a body: title, style, a line of links. inside: where in the site it is."""
    place = f"<span>{html.escape(inside)}</span>" if inside else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}"
        f"{HtmlFormatter().get_style_defs('.highlight')}</style></head><body>"
        f'<header><a href="index.html">TinyLLM-study</a>{place}</header>'
        f"<main>{body}</main></body></html>\n"
    )


def notebook_page(page: Page, others: list[Page]) -> str:
    """A notebook as a page; links to notebooks of the same run become links to their pages."""
    exporter = HTMLExporter(template_name="basic")
    body, _ = exporter.from_notebook_node(nbformat.read(page.source, as_version=4))
    names = {other.title: other.name for other in others if other.run == page.run}

    def linked(match: re.Match) -> str:
        return f'href="{names.get(match[1], match[1] + ".html")}"'

    body = re.sub(r'href="([\w.-]+)\.ipynb"', linked, body)
    return whole(page.title, body, page.run or "as committed")


def figure_list(folder: Path) -> str:
    """All figures with links to PDF and numbers, copied to `folder`/figures."""
    source = paths.figures()
    shutil.copytree(source, folder / "figures", dirs_exist_ok=True)
    parts = []
    for file in sorted(source.glob("*.png")):
        name, links = file.stem, []
        for kind, words in ((".pdf", "PDF"), (".csv", "numbers")):
            if file.with_suffix(kind).exists():
                links.append(f'<a href="figures/{name}{kind}">{words}</a>')
        image = f'<img src="figures/{name}.png" alt="{name}" width="{_shown_width(file)}">'
        parts.append(
            f'<div class="figure" id="{name}"><h3>{name.replace("_", " ")}</h3>'
            f"{image}<p>{' · '.join(links)}</p></div>"
        )
    return "".join(parts)


def _shown_width(png: Path) -> int:
    """Pixels that a figure is shown in: all at one scale, so that text is as large in each."""
    width = int.from_bytes(png.read_bytes()[16:20])  # of the image, from the header
    return round(0.65 * width)


def table_list() -> str:
    """All tables, with links to LaTeX and numbers."""
    parts = []
    for file in sorted((paths.figures() / "tables").glob("*.md")):
        base = f"figures/tables/{file.stem}"
        parts.append(
            f'<h3>{file.stem.replace("_", " ")}</h3><div class="table">'
            f"{markdown2html(file.read_text(encoding='utf-8'))}</div>"
            f'<p><a href="{base}.tex">LaTeX</a> · <a href="{base}.csv">numbers</a></p>'
        )
    return "".join(parts)


def notebook_list(found: list[Page]) -> str:
    """Links to the notebooks, by run."""
    parts = []
    for run in dict.fromkeys(page.run for page in found):
        links = []
        for page in (page for page in found if page.run == run):
            mark = f' <span class="failed">{page.mark}</span>' if page.mark else ""
            links.append(f'<li><a href="{page.name}">{html.escape(page.title)}</a>{mark}</li>')
        head = html.escape(run) or "As committed, with the outputs of the micro study"
        parts.append(f"<h3>{head}</h3><ul>{''.join(links)}</ul>")
    return "".join(parts)


def write(folder: Path) -> Path:
    """Write the site into `folder`, replacing a former one; gives the path of index.html.

    Raises ValueError where the folder holds something else, which would be lost.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "index.html").exists():
        raise ValueError(f"{paths.shown(folder)} holds other files; name a new or empty folder")
    found = pages()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for page in found:
        (folder / page.name).write_text(notebook_page(page, found), encoding="utf-8")
    index = (
        "<h1>TinyLLM-study</h1><p>Does learning from several teachers' rationales beat learning "
        "from answers, from one teacher, and by how much more than noise?</p>"
        '<p><a href="#notebooks">Notebooks</a> · <a href="#tables">Tables</a> · '
        '<a href="#figures">Figures</a></p>'
        f'<h2 id="notebooks">Notebooks</h2>{notebook_list(found)}'
        f'<h2 id="tables">Tables</h2>{table_list()}'
        f'<h2 id="figures">Figures</h2>{figure_list(folder)}'
    )
    file = folder / "index.html"
    file.write_text(whole("TinyLLM-study", index), encoding="utf-8")
    return file


def main(arguments: list[str]) -> None:
    """See the module."""
    folder = Path(arguments[0]) if arguments else paths.runs() / "report"
    print(f"open {paths.shown(write(folder))}")


if __name__ == "__main__":
    main(sys.argv[1:])
