"""The documentation: links resolve, every page is in the site, and lists that repeat the code agree
with it.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import fasr_video
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings]
    return {re.sub(r"\s", "-", heading.strip()) for heading in plain}


def pages_in(nav: Any) -> list[str]:
    """Return the pages that a part of the navigation names, in its order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_in(part)]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *(f"docs/{p}" for p in PAGES)])
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(name: str) -> None:
    page = ROOT / name
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page if path == "" else page.parent / path
        assert target.is_file(), f"{name}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{name}: {link} names no heading"


def test_every_page_is_in_the_navigation_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(pages_in(site["nav"])) == PAGES


def test_the_site_fetches_no_font_and_has_no_analytics() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert site["theme"]["font"] is False
    assert "analytics" not in site["extra"] and "extra_javascript" not in site


def test_the_architecture_page_has_the_layers_of_the_import_contract() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = tools["importlinter"]["contracts"][0]["layers"]
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    picture = text.split("## The layers")[1].split("Packages on one line")[0]
    lines = [line[24:].strip() for line in picture.splitlines()]
    assert [line for line in lines if line and not line.startswith("─")] == layers


def test_the_python_page_has_every_public_name_and_its_signature() -> None:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    for name in fasr_video.__all__:
        assert f"`{name}`" in text or f"### `{name}(" in text or f"fasr_video.{name}" in text, name
        member = getattr(fasr_video, name)
        if inspect.isfunction(member):
            parameters = inspect.signature(member).parameters.values()
            plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
            signature = str(inspect.Signature(plain)).replace("'", '"')
            assert f"### `{name}{signature}`" in text, f"{name}{signature}"


def test_the_glossary_is_in_alphabetical_order_and_names_each_word_once() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE)
    assert len(words) > 40
    assert words == sorted(set(words), key=str.lower)


def test_the_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample_videos").symlink_to(ROOT / "sample_videos")
    names: dict[str, Any] = {}
    exec(compile(code, "python.md", "exec"), names)
    assert names["case"].tracks and names["drawn"].picture.shape == (128, 128, 3)
    assert len(names["gallery"].subjects) == 6 and names["answer"].joined
