"""How Sphinx builds these pages: ``make docs``, into build/docs."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
# The kernels of the tutorials share the cores with whatever else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nor do the reader's own settings of IPython matter, or its remarks about unencrypted ports.
PROFILE = HERE.parent / "build" / "ipython" / "profile_default"
PROFILE.mkdir(parents=True, exist_ok=True)
(PROFILE / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 40\n")
os.environ["IPYTHONDIR"] = str(PROFILE.parent)

project = "stellarfit"
author = "The stellarfit developers"
copyright = author
version = release = version_of("stellarfit")

extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode", "numpydoc",
    "benchmark_tables", "mathml",
]
exclude_patterns = ["extensions", "templates", "static", "_build"]
templates_path = ["templates"]
root_doc = "index"

# Text.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Tutorials run once, and again only when their code changes.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parent / "build" / "jupyter-cache")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

# The public names.
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc has the types, in words
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": False}
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
default_role = "code"  # `single backquotes` of the docstrings

# Every reference must lead somewhere, but for those that need other projects' inventories.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(enum|torch|numpy|np|nn|scipy|astropy|h5py|matplotlib|specutils|arviz|pyro)\..*"),
]

# External links are listed, and asked only when somebody says that there is a network.
linkcheck_ignore = [] if os.environ.get("ONLINE") else [r"https?://.*"]

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "stellarfit"
html_theme_options = {
    "header_links_before_dropdown": 8,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_context = {"default_mode": "light"}
html_sidebars = {page: [] for page in ("index", "conventions", "extending", "troubleshooting")}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
