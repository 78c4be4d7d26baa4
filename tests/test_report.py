"""`make report`: a site that opens from disk, complete and without anything from elsewhere."""

from __future__ import annotations

import re

import nbformat
import pytest

from tinyllm import figures, paths, redraw, report


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site of the committed notebooks and of one run with a failed notebook."""
    base = tmp_path_factory.mktemp("site")
    patch = pytest.MonkeyPatch()
    patch.setenv("TINYLLM_RUNS", str(base / "runs"))
    patch.setenv("TINYLLM_FIGURES", str(base / "figures"))
    redraw.published()
    folder = base / "runs" / "small" / "obqa" / "notebooks"
    folder.mkdir(parents=True)
    cells = [
        nbformat.v4.new_markdown_cell("Next: [05](05_paper_figures.ipynb), `a < b`"),
        nbformat.v4.new_code_cell("print('<script>')"),
    ]
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="lr", traceback=[])
    broken = [cells[0], nbformat.v4.new_code_cell("1 / 0", outputs=[error])]
    names = {"03_distillation.failed": cells, "04_evaluation": cells}
    for name, each in (names | {"05_paper_figures.failed": broken}).items():
        nbformat.write(nbformat.v4.new_notebook(cells=each), folder / f"{name}.ipynb")
    yield report.write(base / "report").parent
    patch.undo()


def links(text: str) -> set[str]:
    return set(re.findall(r'(?:href|src)="([^"]+)"', text))


def test_every_link_leads_to_a_file_or_a_place_of_the_site(site):
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for link in links(text):
            if link.startswith("data:"):
                continue
            file, _, place = link.partition("#")
            assert not re.match(r"[a-z]+:|/", link), f"{page.name}: {link} leaves the site"
            target = site / file if file else page
            if not file.endswith(".ipynb"):
                assert target.exists(), f"{page.name}: {link}"
            if place and not file:
                assert f'id="{place}"' in text, f"{page.name}: {link}"


def test_no_page_loads_or_runs_anything(site):
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<script|<link|@import|url\(", text), page.name
        assert str(paths.ROOT) not in text


def test_every_notebook_has_a_page_and_a_link(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    committed = {f"{file.stem}.html" for file in (paths.ROOT / "notebooks").glob("0*.ipynb")}
    own = {"small_obqa_04_evaluation.html", "small_obqa_05_paper_figures.failed.html"}
    assert committed | own <= links(index)
    assert index.count('<span class="failed">failed</span>') == 1
    assert index.count('<span class="failed">not finished</span>') == 1
    page = (site / "small_obqa_04_evaluation.html").read_text(encoding="utf-8")
    assert "small_obqa_05_paper_figures.failed.html" in links(page)
    assert "&lt;script&gt;" in page


def test_every_figure_and_table_is_shown_with_its_numbers(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    for name in ("published_table", "published_gains", "published_size", "pipeline"):
        wanted = {f"figures/{name}.{kind}" for kind in ("png", "pdf", "csv")}
        assert wanted <= links(index)
    assert "<strong>67.90</strong>" in index  # the one gain at 780M beyond noise
    assert "figures/tables/published_table.tex" in links(index)
    assert (
        pytest.approx(float(re.search(r'alt="published_gains" width="(\d+)"', index)[1]), abs=1)
        == figures.PAGE * 200 * 0.65
    )


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        report.write(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
