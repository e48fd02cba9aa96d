"""The `checker` command. Only here are the parts of the service wired together."""

from checker.cli.main import main

__all__ = ["main"]
