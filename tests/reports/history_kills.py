"""Kill processes while they save what was said, and have several save at once. Every turn that was confirmed is there.

``python -m tests.reports.history_kills --kills 1000`` prints what it counted, and exits with 1 if anything was lost.
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

WRITER = """
import os, sys
from dataclasses import replace
from gptoss_mlx.history import History, Kept
name, turns = sys.argv[1], int(sys.argv[2])
history = History()
id = history.find(name)
kept = history.read(id) if id else Kept("m", "h", "low", None, None, "", name=name)
fields = {"name": None, "recipient": None, "channel": None}
for turn in range(turns):
    number = len(kept.messages)
    said = {"role": "user", "content": f"{name} turn {number} " + "words " * (number % 50)} | fields
    kept = history.save(replace(kept, messages=[*kept.messages, said]))
    os.write(1, f"{number}\\n".encode())
"""
"""Adds turns to the conversation of a name, and confirms each on standard output once it is saved."""


def writer(home, name, turns):
    environment = os.environ | {"GPTOSS_MAC_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, name, str(turns)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


def faults(home, confirmed):
    """Return what is wrong with the database, where ``confirmed`` has the number of turns of each name."""
    found = []
    with closing(sqlite3.connect(Path(home) / "said" / "history.db", timeout=20)) as db:
        if (check := db.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            found.append(f"damaged: {check[:3]}")
        db.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 0)")
        for name, count in confirmed.items():
            command = (
                "SELECT text FROM message JOIN conversation c ON c.id = conversation WHERE c.name = ? ORDER BY position"
            )
            texts = [text for (text,) in db.execute(command, (name,))]
            wrong = [n for n, text in enumerate(texts) if not text.startswith(f"{name} turn {n} ")]
            if len(texts) < count or wrong:
                found.append(f"{name}: {count} turns confirmed, {len(texts)} there, wrong: {wrong[:3]}")
    return found


def hammer(home, processes, turns):
    """Have several processes save at once, each in its own conversation. Return what is wrong."""
    names = [f"p{n}" for n in range(processes)]
    running = {name: writer(home, name, turns) for name in names}
    outputs = {name: process.communicate() for name, process in running.items()}
    problems = [error for _, error in outputs.values() if error]
    return problems + faults(home, {name: outputs[name][0].count("\n") for name in names})


def killed_while_saving(home, kills, seed=1):
    """Kill a process that saves turn after turn, so many times, at random moments. Return what is wrong."""
    rng = random.Random(seed)
    confirmed = 0
    for _ in range(kills):
        process = writer(home, "killed", 1_000_000)
        first = process.stdout.readline()  # it saves now
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        rest, error = process.communicate()
        if error:
            return [error]
        numbers = [int(line) for line in (first + rest).splitlines() if line]
        confirmed = max([confirmed, *(number + 1 for number in numbers)])
        if problems := faults(home, {"killed": confirmed}):
            return problems
        if confirmed > 2000:  # a long conversation only makes each save slower
            (Path(home) / "said" / "history.db").unlink()
            for path in (Path(home) / "said").glob("history.db-*"):
                path.unlink()
            confirmed = 0
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--turns", type=int, default=500)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        problems = killed_while_saving(home, given.kills)
    print(f"{given.kills} SIGKILLs while saving: {problems or 'no turn lost, no database damaged'}")
    with tempfile.TemporaryDirectory() as home:
        together = hammer(home, given.processes, given.turns)
    print(f"{given.processes} processes, {given.turns} turns each: {together or 'no turn lost, no database damaged'}")
    sys.exit(1 if problems or together else 0)


if __name__ == "__main__":
    main()
