"""Links between pages, and to files and headings, lead somewhere, without a network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + [
    p for p in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in p.parts]


def prose(page: Path) -> str:
    """Return a page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return what headings are called in links, as GitHub and MyST do."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(),
                                               flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_result_is_on_the_page_of_benchmarks_with_its_command() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    shown = {path for pattern in re.findall(r"```{benchmark} (\S+)", page)
             for path in RESULTS.glob(pattern)}
    assert shown == set(RESULTS.rglob("*.json"))
    for module in re.findall(r":command: .*python -m benchmarks\.(\w+)", page):
        assert (ROOT / "benchmarks" / f"{module}.py").is_file(), module


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {ROOT / "docs" / "index.md"}
    for page in PAGES:
        for block in re.findall(r"```{toctree}\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.splitlines():
                name = line.rsplit("<", 1)[-1].rstrip("> ") if "<" in line else line.strip()
                if name and not name.startswith(":"):
                    listed.add((page.parent / f"{name}.md").resolve())
    assert {p for p in PAGES if "docs" in p.parts} == listed
