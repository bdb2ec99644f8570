"""An extension of griffe, which reads docstrings for the site.

Ours say "Example:", and griffe draws code for "Examples:" alone.
"""

from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Reads the examples of docstrings as code."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Renames the section of a docstring."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
