"""Which page is whose: a star's page is named after its file, as its results are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from stellarfit.naming import harmless, stem_of


def folder_of(page: Path) -> Path:
    """Return the folder of the pages of single stars, beside the page of the catalogue."""
    return page.with_suffix("")


def page_name(stem: str) -> str:
    """Return the file name of a star's page: what its results are called, made harmless.

    >>> page_name("star.one"), page_name("a/b <c>")
    ('star.one.html', 'a_b__c_.html')
    """
    return harmless(stem) + ".html"


def stems_of(files: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return what the results of each row of a catalogue are called.

    By its file, or the name of the star where there is none; of several stars in a file FILE-NAME,
    as ``stellarfit fit`` calls them.
    """
    stars = Counter(files)
    return [(stem_of(f) if stars[f] == 1 else f"{stem_of(f)}-{n}") if f else n
            for f, n in zip(files, names, strict=True)]


def links_to(folder: Path, stems: Sequence[str]) -> list[str]:
    """Return where each row leads from a page beside the folder; empty where no page is there."""
    there = {p.name for p in folder.glob("*.html")} if folder.is_dir() else set()
    return [_relative(folder.name, page_name(s)) if page_name(s) in there else "" for s in stems]


def _relative(folder: str, name: str) -> str:
    # a path quoted as URIs are, which a relative one cannot be by itself
    return PurePosixPath("/", folder, name).as_uri().removeprefix("file:///")
