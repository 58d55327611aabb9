"""The progress of a download: one bar for all and one for each file, or lines where there is no terminal."""

import pyte

from gptoss_mlx.cli.progress import download_progress


def screen_of(text, columns=140, rows=20):
    screen = pyte.Screen(columns, rows)
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display if line.strip()]


def test_a_terminal_shows_bars_for_all_for_what_is_converted_and_for_each_file_that_is_arriving(monkeypatch, capsys):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "140"}.items():
        monkeypatch.setenv(name, value)
    with download_progress(5_000_000) as show:
        show.fetching("config.json", 0, 1_000_000)
        show.fetching("config.json", 1_000_000, 1_000_000)
        show.fetching("[bold]w.safetensors", 2_000_000, 4_000_000)
        show.fetching("[bold]w.safetensors", 3_000_000, 4_000_000)
        show.converting(500_000, 5_000_000)
    lines = screen_of(capsys.readouterr().err)
    assert [line.split()[0] for line in lines] == ["Downloading", "Converting", "[bold]w.safetensors"]
    assert "4.0/5.0 MB" in lines[0]
    assert "0.5/5.0 MB" in lines[1]
    assert "3.0/4.0 MB" in lines[2], "a file that is there has no bar any more"


def test_bytes_that_were_there_say_nothing_about_the_speed(monkeypatch, capsys):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "140"}.items():
        monkeypatch.setenv(name, value)
    with download_progress(10_000_000_000) as show:
        show.fetching("w", 5_000_000_000, 10_000_000_000)
        show.fetching("w", 5_000_000_000, 10_000_000_000)
    lines = screen_of(capsys.readouterr().err)
    assert [line.split()[0] for line in lines] == ["Downloading", "Converting", "w"]
    assert all("5.0/10.0 GB" in line for line in (lines[0], lines[2]))
    assert not any("GB/s" in line or "MB/s" in line for line in lines)


def test_in_a_log_they_say_nothing_about_it_either(monkeypatch, capsys):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr("gptoss_mlx.cli.progress.LINE_SECONDS", 0.0)
    with download_progress(10_000_000_000) as show:
        show.fetching("w", 5_000_000_000, 10_000_000_000)
        show.fetching("w", 5_000_000_001, 10_000_000_000)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "Downloading:  50%, 5.0 GB of 10.0 GB, 0 bytes/s"
    assert "kB/s" in second or " bytes/s" in second


def test_without_a_terminal_the_end_is_a_line(monkeypatch, capsys):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with download_progress(5_000_000) as show:
        show.fetching("config.json", 1_000_000, 1_000_000)
        show.fetching("w.safetensors", 3_000_000, 4_000_000)
        show.fetching("w.safetensors", 4_000_000, 4_000_000)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Downloading: 100%, 5.0 MB of 5.0 MB")
