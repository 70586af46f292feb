"""What an emulator and a grid show of themselves in a notebook."""

from __future__ import annotations

from emulators.notebook import several, shown


def test_an_emulator_and_a_grid_say_what_they_are(emulator, grid) -> None:
    emulator.metrics = {"mae": 0.00123}
    for page, words in (
        (emulator._repr_html_(), ("transformer", "Å, air", "teff", "mae 0.00123")),
        (grid._repr_html_(), ("60: 48 train, 12 validation", "200, ", "Å, air", "teff")),
    ):
        assert all(word in page for word in words), page


def test_what_comes_from_a_file_is_no_markup() -> None:
    page = shown("<i>", [("<script>", "a & b")], notes=["<u>"])
    assert "&lt;i&gt;" in page
    assert "<script>" not in page
    assert "a &amp; b" in page
    assert "<u>" not in page


def test_many_names_are_counted() -> None:
    assert several(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert several(["a", "b"], most=2) == "a, b"
