"""To come."""

from persim.cli.training import Commands


def add(commands: Commands) -> None:
    """Nothing yet."""
