"""The `edge` command."""

from edge.cli.main import main

__all__ = ["main"]
