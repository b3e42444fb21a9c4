"""Texts that are written for others, from the jinja2 templates beside the code that fills them."""

from typing import Any


def render(package: str, template: str, /, **values: Any) -> str:
    """Return a template with its values.

    Args:
        package: The room whose folder ``templates`` has it: ``"hat.export.deploy"``.
        template: Its file. In one that ends in ``.html.jinja`` values are escaped.
        **values: What it needs; a value that is missing is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        autoescape=template.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = _quoted
    return environment.get_template(template).render(values)


def _quoted(text: str) -> str:
    """Return a string of protobuf's text format, for ASCII on one line."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
