"""The site: Sphinx reads docs/*.md, `generate.py` writes what comes from the package and results/.

Formulas become MathML when the site is built, so its pages need neither scripts nor a network.
"""

import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
import executed  # noqa: E402
import generate  # noqa: E402

generate.write(DOCS / "_generated")
executed.copies(DOCS / "notebooks")

project, author = "TinyLLM-study", "the authors of TinyLLM-study"
copyright = "its authors, Apache-2.0"
extensions = ["myst_nb", "sphinx_copybutton"]
exclude_patterns = ["_build", "examples", "_generated"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # stored outputs are shown
nb_render_markdown_format = "gfm"  # tables in outputs
html_theme, html_title = "furo", "TinyLLM-study"
html_static_path, html_css_files = ["_static"], ["site.css"]
html_math_renderer = "mathml"
html_copy_source = html_show_sphinx = False
copybutton_prompt_text = "$ "


def _inline(self, node: nodes.math) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _to_pages(app, page: str, text: list[str]) -> None:
    # Links to notebooks work in the repository; here they lead to the notebooks' pages.
    if "/" not in page:
        text[0] = text[0].replace("](../notebooks/", "](notebooks/")


def setup(app) -> None:
    app.connect("source-read", _to_pages)
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
