"""Pages with Python in them become notebooks: every block runs when the site is built.

The pages stay plain Markdown, as a reader of the repository sees them: ``python`` fences are turned
into MyST-NB's code cells when Sphinx reads a page. A block that shows what must not run is written
as a ``{code-block} python`` directive.
"""

import re

from sphinx.application import Sphinx

# What MyST-NB wants to see at the top of a notebook.
HEADER = """---
file_format: mystnb
kernelspec: {name: python3, display_name: Python 3}
---
"""
FENCE = re.compile(r"^```python$", re.MULTILINE)


def to_notebook(app: Sphinx, name: str, source: list[str]) -> None:
    """Rewrite the text of a page in place, if it has a block of Python or code cells."""
    text, count = FENCE.subn("```{code-cell}", source[0])
    if count or "```{code-cell}" in text:
        source[0] = HEADER + text


def setup(app: Sphinx) -> dict:
    """Let Sphinx call to_notebook for each page."""
    app.connect("source-read", to_notebook)
    return {"parallel_read_safe": True}
