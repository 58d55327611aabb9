"""The command line's door. It takes the signals in hand before it imports anything that takes time."""

from gptoss_mlx.cli.signals import ended_by_signals


def main() -> None:
    """Run the command line. Exit codes are those of ``gptoss_mlx.errors``, and 128 more than a signal's number."""
    ended_by_signals(_commands)


def _commands() -> None:
    from gptoss_mlx.cli.commands import execute

    execute()
