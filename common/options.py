"""How a field of an argument dataclass is written."""

from dataclasses import field


def option(default, description: str):
    """A field of an argument dataclass: its default and what --help says of it."""
    return field(default=default, metadata={"help": description})
