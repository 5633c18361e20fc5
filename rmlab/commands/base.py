"""What a command of `rmlab` has to offer; modules satisfy it as they are."""

from __future__ import annotations

import argparse
from typing import Protocol


class Command(Protocol):
    """A command; see `rmlab.commands`."""

    @property
    def NAME(self) -> str:
        """What is typed after `rmlab`."""

    @property
    def HELP(self) -> str:
        """One line for the list of commands."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the description and the options."""

    def run(self, options: argparse.Namespace) -> int:
        """Does it. Returns the exit code; raises `UsageError` or `RunError` with one sentence."""
