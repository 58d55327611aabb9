"""``gptoss-mac bench --predict``: print what is predicted for each Mac."""

from gptoss_mlx.cli.terminal import table_console


def print_predictions() -> None:
    """Print a table for each model, the errors of the fit, and what they are."""
    from rich.table import Table

    from gptoss_mlx.prediction.macs import error_lines, errors_rows, macs_rows, predictions

    console = table_console()
    found = predictions()
    title = "Predictions of tokens/s, {}, beside published speeds"
    tables = {title.format(model): macs_rows(found, model) for model in found["models"]}
    tables["Predictions of published speeds, whose chip is left out of the fit"] = errors_rows(found)
    for heading, (head, rows) in tables.items():
        table = Table(*head, title=heading)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in error_lines(found):
        console.print(line, markup=False, soft_wrap=True)
