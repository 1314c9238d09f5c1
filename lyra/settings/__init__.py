"""What can be set, with its default: the one place that the library and the command line take both from.

Nothing here imports torch or pandas, so that `lyra train --help` can show the defaults at once.
"""

from .data import DataOptions, InputOptions
from .explain import Contents, ExplainOptions
from .training import Hardware, Recipe

__all__ = ["Contents", "DataOptions", "ExplainOptions", "Hardware", "InputOptions", "Recipe"]
