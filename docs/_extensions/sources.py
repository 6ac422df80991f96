"""Links to files of the repository: the site has a page for each source file that a page names.

In the repository such a link opens the file. Here the file is shown with its colours, at
``sources/<path>``; a link to a folder, or to a page of Markdown outside of this folder, is kept as
text only.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
LANGUAGES = {".h": "cpp", ".cpp": "cpp", ".cu": "cuda", ".py": "python", ".toml": "toml",
             ".yml": "yaml", ".json": "json", "": "make"}  # fmt: skip
LINK = re.compile(r"\[([^\]\[]*)\]\(((?:\.\./)+)([^)#]*)(#[^)]*)?\)")


def link_to_sources(app: Sphinx, name: str, source: list[str]) -> None:
    """Rewrite the links of a page that leave the documentation."""
    page = Path(app.srcdir, name).parent

    def replace(match: re.Match) -> str:
        text, up, path, _ = match.groups()
        target = (page / up / path).resolve()
        if target.is_relative_to(app.srcdir) or not target.is_relative_to(ROOT):
            return match[0]
        if not target.exists():
            raise FileNotFoundError(f"{name}: {path} is not there")
        relative = target.relative_to(ROOT)
        special = {"README.md": "/index.md", "CONTRIBUTING.md": None, "CHANGELOG.md": None}
        if str(relative) in special:
            link = special[str(relative)]
            return f"[{text}]({link})" if link else text
        if target.is_dir() or target.suffix == ".md":
            return f"`{relative}`" if text.strip("`") == str(relative) else text
        depth = "../" * name.count("/")
        return f"<a class='source' href='{depth}sources/{relative}.html'>{text.strip('`')}</a>"

    source[0] = LINK.sub(replace, source[0])


def source_pages(app: Sphinx):
    """One page for each file that is linked, as highlighted text."""
    wanted = set()
    for path in Path(app.srcdir).rglob("*.md"):
        for match in LINK.finditer(path.read_text()):
            target = (path.parent / match[2] / match[3]).resolve()
            if target.is_file() and target.suffix in LANGUAGES and target.is_relative_to(ROOT):
                wanted.add(target)
    highlighter = app.builder.highlighter
    for target in sorted(wanted):
        relative = str(target.relative_to(ROOT))
        body = highlighter.highlight_block(
            target.read_text(), LANGUAGES[target.suffix], linenos=False, force=True
        )
        context = {"title": relative, "body": f"<h1>{os.path.basename(relative)}</h1>{body}"}
        yield f"sources/{relative}", context, "page.html"


def setup(app: Sphinx) -> dict:
    """Let Sphinx call the two functions."""
    app.connect("source-read", link_to_sources, priority=400)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": True}
