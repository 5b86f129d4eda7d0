"""Sphinx's configuration of the book. `python -m docs.book` runs it."""

import inspect
import re
from importlib import import_module
from importlib.metadata import distribution
from operator import attrgetter

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.inspect import stringify_signature
from sphinx.util.osutil import relative_uri

from docs import ledger
from docs.book.assemble import REPOSITORY, ROOT, words
from docs.book.docstrings import definitions, restructured

project = "diy"
author = "The diy developers"
copyright = f"{author}, MIT licence"
language = "en"
exclude_patterns = ["README.md"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # no widget has a state to be shown, and these scripts would come from another host
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_url_schemes = {"http": None, "https": None, "mailto": None, "source": None, "derivation": None}

default_role = "literal"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "extra_repr"}
python_use_unqualified_type_names = True

MATHJAX = distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static/mathjax/tex-svg-full.js")
html_theme = "sphinx_book_theme"
html_title = "diy"
html_favicon = "icon.svg"
html_context = {"default_mode": "auto"}
html_static_path = ["book.css", str(MATHJAX)]
html_css_files = ["book.css"]
mathjax_path = MATHJAX.name
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": "main",
    "use_repository_button": True,
    "use_download_button": False,
    "show_toc_level": 2,
    "launch_buttons": {
        "colab_url": "https://colab.research.google.com",
        "binderhub_url": "https://mybinder.org",
        "notebook_interface": "jupyterlab",
    },
}

FORMULAS = ledger.collect()


def linkcode_resolve(domain: str, info: dict) -> str | None:
    """Return where the source of an object stands, which for an inherited method is another class."""
    object = attrgetter(info["fullname"])(import_module(info["module"]))
    object = inspect.unwrap(getattr(object, "fget", object))
    name = getattr(object, "__qualname__", "<an attribute>")
    return None if "<" in name else f"source:{info['module']}.py#{name}"


def constructor(app, what, name, owner, options, signature, returns):
    """Give a class the arguments of its `__init__`; autodoc takes those of diy's `__new__`, which passes all on."""
    if what == "class":
        own = inspect.signature(owner.__init__.__get__(owner)) if owner.__init__ is not object.__init__ else ""
        return own and stringify_signature(own, show_return_annotation=False, unqualified_typehints=True), returns


class Links(SphinxPostTransform):
    """Numbers of formulas, `source:` and `derivation:` become links, and each derivation gets its own."""

    default_priority = 400

    def run(self, **kwargs) -> None:
        if self.app.builder.format != "html":
            return
        for math in list(self.document.findall(nodes.math_block)):
            if numbers := re.findall(r"\\tag\{(F\d+)\}", math.astext()):
                self.derivation(math, numbers)
        for text in list(self.document.findall(nodes.Text)):
            if isinstance(text.parent, (nodes.paragraph, nodes.emphasis, nodes.strong, nodes.line, nodes.entry)):
                self.numbers(text)
        for link in self.document.findall(nodes.reference):
            kind, _, target = link.get("refuri", "").partition(":")
            if kind == "source":
                link["refuri"] = self.source(target)
            elif kind == "derivation":
                link["refuri"] = self.uri(f"notebooks/{FORMULAS[target].derived[0].removesuffix('.ipynb')}", target)

    def uri(self, page: str, fragment: str) -> str:
        return f"{self.app.builder.get_relative_uri(self.env.docname, page)}#{fragment}"

    def source(self, target: str) -> str:
        """Return the place of a file, or of a definition in it, and note that the file must get a page."""
        path, _, name = target.partition("#")
        if not path.endswith(".py"):
            return relative_uri(self.app.builder.get_target_uri(self.env.docname), path)
        self.app.source_files.add(path)
        page = f"source/{path.removesuffix('.py')}"
        return self.uri(page, f"line-{definitions(ROOT / path)[name]}" if name else "")

    def link(self, number: str) -> nodes.reference:
        return nodes.reference("", number, refuri=self.uri("docs/ledger", number), internal=True)

    def numbers(self, text: nodes.Text) -> None:
        """Replace each number in a text by a link to the ledger."""
        parts = re.split(r"\b(F\d+)\b", text.astext())
        if len(parts) > 1:
            new = [self.link(part) if part in FORMULAS else nodes.Text(part) for part in parts if part]
            text.parent.replace(text, new)

    def derivation(self, math: nodes.math_block, numbers: list[str]) -> None:
        """Put a target before a formula, and links to its code and its tests behind it."""
        lines = nodes.container("", classes=["formula"])
        for number in numbers:
            formula = FORMULAS[number]
            line = nodes.paragraph("", f"{number}: ")
            for owner in formula.coded:
                line += nodes.reference("", owner, refuri=self.uri("docs/diy", f"diy.{owner}"), internal=True)
            line += nodes.Text("; tested: ")
            for file, test in formula.tested:
                line += nodes.reference("", words(test), refuri=f"source:tests/{file}#{test}", internal=True)
                line += nodes.Text(", ")
            line.pop()
            lines += line
        target = nodes.container("", ids=numbers)
        math.parent.replace(math, [target, math, lines])


def source_pages(app):
    """Yield a page for each source file that a link leads to."""
    formatter = HtmlFormatter(linenos="inline", lineanchors="line", wrapcode=True)
    for path in sorted(app.source_files):
        body = highlight((ROOT / path).read_text(encoding="utf-8"), PythonLexer(), formatter)
        context = {"title": path, "body": f"<h1>{path}</h1>{body}", "parents": []}
        yield f"source/{path.removesuffix('.py')}", context, "page.html"


def setup(app) -> None:
    app.source_files = set()
    app.add_post_transform(Links)
    app.connect("autodoc-process-signature", constructor)
    app.connect("autodoc-process-docstring", lambda app, what, name, object, options, lines: restructured(lines))
    app.connect("html-collect-pages", source_pages)
