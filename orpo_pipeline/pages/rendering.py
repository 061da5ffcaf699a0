"""Pages of one look, readable offline, in one file each.

Everything that comes from data or models is shown as text. Autoescaping takes care of HTML,
`show_controls` of characters that would be invisible or reorder what a reader sees, and the page's
own Content-Security-Policy forbids whatever else might slip through.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

SHARED = Path(__file__).parent / "templates"

# Controls but tab and line end; soft hyphen; zero-width space, marks, bidi and separators; BOM;
# annotation; language tags; surrogates. Joiners stay: emoji and several scripts need them.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f]"
)


def page_template(
    folder: Path, name: str, filters: Mapping[str, Callable[..., Any]] | None = None
) -> Template:
    """The template `name` of `folder`; it can extend `page.html.jinja`, which all pages share."""
    environment = Environment(
        loader=FileSystemLoader([folder, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=show_controls,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(name)


def show_controls(value: Any) -> Any:
    """Text with characters that cannot be seen given by number, as `[U+202E]`; else the value."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return UNSEEN.sub(lambda found: f"[U+{ord(found.group()):04X}]", value)
