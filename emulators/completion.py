"""What the shell completes: names of what ships."""

from __future__ import annotations

import click

from emulators.files import shipped_folder


def emulator_names(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Complete the name of an emulator that ships."""
    return sorted(p.name for p in shipped_folder("emulators").iterdir()
                  if p.is_dir() and p.name.startswith(begun))


def recipe_names(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Complete the name of a recipe that ships."""
    return sorted(p.stem for p in shipped_folder("recipes").glob("*.toml")
                  if p.name.startswith(begun))
