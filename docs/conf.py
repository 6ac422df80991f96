"""The documentation site: `make docs` builds it with warnings as errors."""

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS / "_extensions"))

import inventory  # noqa: E402
import torchdet  # noqa: E402

project = "torchdet"
author = "The torchdet authors"
copyright = author
version = release = torchdet.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # the site asks no other site for anything
    "sphinx_copybutton",
    "sphinx_design",
    "executed",
    "sources",
]
exclude_patterns = ["_build", "_extensions", "_static", "images/README.md"]
nitpicky = True
# Named tuples, which the functions' own sections describe.
nitpick_ignore_regex = [
    ("py:class", r"torch\.return_types\..*|torchdet\..*"),
    ("py:class", r"(collections\.abc|typing)\..*"),
]

# --- Markdown, and the code in it ---

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4
# Every block of Python runs when the site is built (_extensions/executed.py), each page in a
# process of its own. An exception ends the build.
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "docs-cache")
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_execution_in_temp = False
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables

# Progress bars are for terminals.
nb_output_stderr = "remove"
os.environ.update(
    OMP_NUM_THREADS="1",
    PYTHONPATH=os.pathsep.join((str(ROOT), str(ROOT / "examples"), str(DOCS / "_extensions"))),
    TERM="dumb",
    # For docs/distributed.md: one process of one.
    MASTER_ADDR="127.0.0.1", MASTER_PORT="29555", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0",
)  # fmt: skip

# --- the interface ---

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [
    "Returns", "Gradient", "Accuracy", "Singular matrices", "Memory", "Reference",
]  # fmt: skip


def escape(app, what, name, obj, options, lines):
    """Docstrings are plain text: an asterisk is a product, and a bar a modulus."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = re.sub(r"(?<!\\)([*|])", r"\\\1", line)


def setup(app):
    """Sphinx calls escape() for each docstring, before Napoleon sees it."""
    app.connect("autodoc-process-docstring", escape, priority=100)


intersphinx_mapping = inventory.mapping(ROOT / "build" / "docs-inventories")

# --- how it looks ---

html_theme = "pydata_sphinx_theme"
html_title = "torchdet"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"tutorial": [], "api": []}  # they have no pages below them
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "torchdet"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_nav_level": 2,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "back_to_top_button": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
