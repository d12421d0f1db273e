"""Configuration of the documentation's site, built by ``nox -s docs`` and by Read the Docs."""

from __future__ import annotations

from importlib.metadata import version as installed
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "x509proxy"
author = "the authors of x509proxy"
copyright = "MIT licence"  # noqa: A001 - the name that Sphinx reads
release = version = installed("x509proxy")

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
# The comments of the pages name the tests that run a block; no page is a template.
templates_path: list[str] = []
nitpicky = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
# The docstrings of Twisted are in another format.
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True, "show-inheritance": True}

# References that lead to no page, each with its reason:
_INTERNAL = (
    "authorization|certificates|cli|config|downstream|exchange|forwarding|http1|monitoring|redaction|relay"
    "|service|transport|upstream"
)
nitpick_ignore_regex = [
    # Internal modules: docstrings name them for readers of the code; the site has the public ones.
    (r"py:.*", rf"x509proxy\.({_INTERNAL})(\..*)?"),
    # The same, relative to the package or module of the docstring.
    (r"py:(mod|class|func|meth|attr|data)", r"[a-z_]+(\.\w+)?"),
    # Private names of a public module, in a signature.
    (r"py:class", r"x509proxy\.\w+\._\w+"),
    # Other projects: their inventories are on the network, which a build must not need.
    (r"py:.*", r"(OpenSSL|attrs|cryptography|msgspec|ssl|twisted|x509|zope)\..*"),
    (r"py:class", r"(<InterfaceClass .*|ReverseProxyResource|Deferred|Failure)"),
    # The standard library.
    (r"py:.*", r"(collections\.abc|enum|pathlib|socket|typing)\..*"),
    (r"py:class", r"(Any|Callable|Iterator|Path|Sequence|bool|bytes|float|int|object|str|tuple)"),
    (r"py:exc", r"ValueError"),
]
# Blocks of header fields alone are shown with the lexer of HTTP, which expects a request line.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"x509proxy {release}"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
# Names of tests and settings wrap inside their cells, so that the other columns keep their width.
# Where the screen has room for both sidebars, the text between them may be wider.
_STYLE = """
table.docutils { font-size: 0.9em }
table.docutils td { vertical-align: top }
table.docutils td code.literal { overflow-wrap: anywhere; white-space: normal }
@media (min-width: 92em) { .main .content { width: 54em } }
"""


def setup(app: Sphinx) -> None:
    """Add the style, and leave the keys of a table of settings to ``settings.rst``."""
    app.connect("autodoc-process-signature", _signature)
    app.connect("html-page-context", _style)


def _style(
    _app: Sphinx, _page: str, _template: str, context: dict[str, str], _tree: object
) -> None:
    context["metatags"] = f"{context.get('metatags', '')}<style>{_STYLE}</style>"


def _signature(
    _app: Sphinx, kind: str, _name: str, value: object, _options: object, *signature: str | None
) -> tuple[str | None, str | None]:
    from x509proxy.settings import Settings

    if kind == "class" and isinstance(value, type) and issubclass(value, Settings):
        return "", None
    arguments, result = signature
    return arguments, result
