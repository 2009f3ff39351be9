"""The metadata of installed packages, by the standard library or the backport where that is better."""

import sys

if sys.version_info >= (3, 12):
    from importlib import metadata
else:
    import importlib_metadata as metadata  # reads entry points several times as fast as 3.11's own

__all__ = ["metadata"]
