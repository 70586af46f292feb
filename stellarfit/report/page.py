"""A page: a template filled in, with the figures and all that they need inside it.

Names in files are not to be trusted.  Templates escape whatever they are given, Bokeh what it
draws; where Bokeh takes HTML, as in the titles of a table's columns, the caller escapes.  The
page itself forbids the browser to load anything, should something slip through.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


def check_installed() -> None:
    """Say so before anything is computed, if pages could not be made.

    Raises
    ------
    ModuleNotFoundError
        Without Bokeh.
    """
    try:
        import bokeh.plotting  # noqa: F401
        import jinja2  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reports need Bokeh: pip install 'stellarfit[report]'") from error


def page_of(template: str, title: str, roots: list[Any], **content: Any) -> str:
    """Return the HTML of a page.

    Parameters
    ----------
    template : str
        Name of a file in ``templates/``.
    title : str
    roots : list of Bokeh models
        Placed where the template embeds them by their ``name``.
    **content
        What else the template asks for.
    """
    from bokeh.embed import file_html
    from bokeh.resources import INLINE
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return str(file_html(roots, INLINE, title, template=environment.get_template(template),
                         template_variables=content))


def plain(text: str) -> str:
    r"""Return a name that Bokeh does not take for mathematics, as it would ``$$x$$`` or ``\(x\)``.

    It would ask the network for what sets it.
    """
    return text.replace("$$", "$ $").replace("\\", "/")
