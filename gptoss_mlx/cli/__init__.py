"""Entry point of the command line. It handles signals before it imports anything slow."""

from gptoss_mlx.cli.signals import ended_by_signals


def main() -> None:
    """Run the command line and exit with a code of ``gptoss_mlx.errors``, or 128 plus the number of a signal."""
    ended_by_signals(_commands)


def _commands() -> None:
    from gptoss_mlx.cli.commands import execute

    execute()
