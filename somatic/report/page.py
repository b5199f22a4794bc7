"""Pages of a template; whatever comes from data is escaped."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_PAGES = Environment(
    loader=PackageLoader("somatic.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters["thousands"] = "{:,}".format


def render(template: str, **values: Any) -> str:
    """Fill a template of this package; style and script go into the page."""
    source = _PAGES.loader
    assert source is not None
    inlined = {name: Markup(source.get_source(_PAGES, name)[0]) for name in ("page.css", "cells.js")}
    return _PAGES.get_template(template).render(style=inlined["page.css"], script=inlined["cells.js"], **values)
