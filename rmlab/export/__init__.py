"""A trained module as a folder that transformers and rmlab load; see `folder.py`."""

from rmlab.export.facts import Facts
from rmlab.export.folder import export

__all__ = ["Facts", "export"]
