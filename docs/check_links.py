"""Checks the built site: python docs/check_links.py docs/_build/html

Every relative link must lead to a file, and to an anchor in it where it names one; pages may load
nothing from a network. Links to other sites are not followed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Ids, links and what is loaded (scripts, styles, images) of a page."""

    def __init__(self, file: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = {name: value for name, value in attrs if value}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        loaded = values.get("src") or (values.get("href") if tag == "link" else None)
        self.loads |= {loaded} if loaded else set()
        self.links |= {values["href"]} if tag == "a" and "href" in values else set()


def problems(root: Path) -> list[str]:
    """Broken links, as `page: link`, and what needs a network."""
    pages = {file.resolve(): Page(file) for file in root.rglob("*.html")}
    broken = []
    for file, page in pages.items():
        for link in sorted(page.links | page.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outside = link in page.loads and parts.scheme != "data"
                broken += [f"{file.name}: loads {link}"] if outside else []
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            known = pages[target].ids if target in pages else {parts.fragment}
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in known):
                broken.append(f"{file.name}: {link}")
    return broken


if __name__ == "__main__":
    broken = problems(Path(sys.argv[1]))
    print("\n".join(broken) or "links: all lead to a file and its anchor")
    sys.exit(bool(broken))
