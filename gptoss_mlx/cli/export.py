"""``gptoss-mac convert --to hf 20b``: make a checkpoint that transformers loads of a model folder."""

from pathlib import Path

from gptoss_mlx.cli.terminal import between_calls
from gptoss_mlx.errors import shown


def export(model: str, out: Path | None) -> None:
    """Export an installed model to ``out``, by default to ``NAME-hf`` in the working folder, and say what was lost."""
    from rich.filesize import decimal

    import convert.export
    from gptoss_mlx.cli.progress import byte_progress
    from gptoss_mlx.installed import find_model
    from gptoss_mlx.model_folder import ModelFolder

    folder = ModelFolder.open(find_model(model))
    destination = out if out is not None else Path(f"{folder.path.resolve().name}-hf")
    with byte_progress("Exporting") as progress, between_calls(progress) as stoppable:
        done = convert.export.export(folder, destination, stoppable)
    files = "1 file" if done.files == 1 else f"{done.files} files"
    print(
        f"{shown(str(done.destination))}: {done.tensors} tensors in {files}, {decimal(done.bytes_written)}, "
        f"{done.seconds:.1f} s"
    )
    print("experts, router, norms and sinks bit for bit as in the model folder")
    for loss in done.losses:
        print(f"lost: {shown(loss)}")
    print("no chat template is written; get chat_template.jinja and tokenizer_config.json from the model's page")
