"""transformers, imported without scikit-learn, and so without scipy.stats.

It takes one function of it, for assisted generation that nothing here does, at a third of the
seconds that its import costs. Who imports transformers first takes it from here; scikit-learn
itself stays there for who needs it (trust/).
"""

from __future__ import annotations

import sys

if not {"sklearn", "transformers.generation"} & sys.modules.keys():
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # "not installed"
    try:
        import transformers.generation.utils
    finally:
        del sys.modules["sklearn"]
import transformers

__all__ = ["transformers"]
