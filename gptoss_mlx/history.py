"""What was said, in one SQLite database that many processes use at once. Knows no model and no terminal.

A conversation is its settings and its messages, each a JSON object of ``harmony.Message``'s fields. A save is one
transaction: it is there whole or not at all, also after a kill or on a full disk. Only one process goes on with a
conversation at a time, which a lock that ends with the process sees to.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from gptoss_mlx.errors import HistoryError, SessionError, shown
from gptoss_mlx.home import history_dir, sessions_dir
from gptoss_mlx.old_sessions import read_old_session

VERSION = 1
"""The schema below, as SQLite's ``user_version``."""

SCHEMA = """
CREATE TABLE conversation (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT UNIQUE,
  program TEXT NOT NULL,
  began TEXT NOT NULL,
  changed TEXT NOT NULL,
  settings TEXT NOT NULL
);
CREATE TABLE message (
  id INTEGER PRIMARY KEY,
  conversation INTEGER NOT NULL REFERENCES conversation ON DELETE CASCADE,
  position INTEGER NOT NULL,
  said INTEGER NOT NULL,
  text TEXT NOT NULL,
  message TEXT NOT NULL,
  UNIQUE (conversation, position)
);
CREATE TABLE imported (name TEXT PRIMARY KEY);
CREATE VIRTUAL TABLE words USING fts5(
  text, content=message, content_rowid=id, tokenize="unicode61 remove_diacritics 2"
);
CREATE TRIGGER message_added AFTER INSERT ON message WHEN new.said BEGIN
  INSERT INTO words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER message_removed AFTER DELETE ON message WHEN old.said BEGIN
  INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text);
END;
"""
"""Times are in UTC. ``said`` is 0 for a thought, which is kept and not searched."""

WAIT_SECONDS = 20
"""How long a process waits for another's transaction, which takes milliseconds."""

Program = Literal["chat", "run"]


@dataclass(frozen=True)
class Kept:
    """A conversation as it is kept. ``model`` is a name or an absolute path, ``model_hash`` that model's hash.

    ``id`` is 0 and the times are empty until it has been saved.
    """

    model: str
    model_hash: str
    reasoning: str
    instructions: str | None
    temperature: float | None
    date: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    program: Program = "chat"
    name: str | None = None
    id: int = 0
    began: str = ""
    changed: str = ""


SETTINGS = ("model", "model_hash", "reasoning", "instructions", "temperature", "date")


@dataclass(frozen=True)
class Listed:
    """A conversation in a list: how many messages it has, and the text that it began with or that was ``found``."""

    id: int
    name: str | None
    program: str
    changed: str
    model: str
    count: int
    text: str


class History:
    """The database, open. Close it at the end."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the database, and create it if there is none. Import the sessions of earlier versions, once. Raises
        HistoryError if it cannot be used."""
        self.path = path or history_dir() / "history.db"
        self.notices: list[str] = []
        self._locks: int | None = None
        with self._explained("cannot be opened"):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's other files get its mode
            self._db = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            with self._explained("cannot be read"):
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database. Conversations held by this process are free again."""
        self._db.close()
        if self._locks is not None:
            os.close(self._locks)
            self._locks = None

    def save(self, kept: Kept) -> Kept:
        """Save the conversation, as a new one if its ``id`` is 0. Return it with its id and times. Raises HistoryError,
        and then nothing has changed."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        settings = json.dumps({name: getattr(kept, name) for name in SETTINGS})
        with self._explained("cannot be written"), self._transaction():
            id = kept.id
            if id and not self._db.execute("SELECT 1 FROM conversation WHERE id = ?", (id,)).fetchone():
                id = 0  # another process has removed it
            if not id:
                row = (kept.name, kept.program, kept.began or now, now, settings)
                command = "INSERT INTO conversation (name, program, began, changed, settings) VALUES (?, ?, ?, ?, ?)"
                id = self._db.execute(command, row).lastrowid or 0
            else:
                command = "UPDATE conversation SET name = ?, changed = ?, settings = ? WHERE id = ?"
                self._db.execute(command, (kept.name, now, settings, id))
            self._save_messages(id, [json.dumps(message) for message in kept.messages], kept.messages)
        return replace(kept, id=id, began=kept.began or now, changed=now)

    def read(self, id: int) -> Kept:
        """Return a conversation. Raises SessionError if there is none, HistoryError if it cannot be read."""
        with self._explained("cannot be read"), self._transaction("DEFERRED"):
            command = "SELECT name, program, began, changed, settings FROM conversation WHERE id = ?"
            row = self._db.execute(command, (id,)).fetchone()
            if row is None:
                raise SessionError(f"no conversation {id}; `gptoss-mac logs` lists those there are")
            command = "SELECT message FROM message WHERE conversation = ? ORDER BY position"
            messages = [json.loads(message) for (message,) in self._db.execute(command, (id,))]
            settings = {name: json.loads(row[4]).get(name) for name in SETTINGS}
        name, program, began, changed, _ = row
        return Kept(**settings, messages=messages, program=program, name=name, id=id, began=began, changed=changed)

    def find(self, name: str) -> int | None:
        """Return the id of the conversation of that name or, if it is a number, with that id. None if there is none."""
        with self._explained("cannot be read"):
            row = self._db.execute("SELECT id FROM conversation WHERE name = ?", (name,)).fetchone()
            if row is None and name.isdecimal() and len(name) < 19:
                row = self._db.execute("SELECT id FROM conversation WHERE id = ?", (int(name),)).fetchone()
        return row[0] if row else None

    def latest(self, program: Program | None = None) -> int | None:
        """Return the id of the conversation changed last, in a program or in any. None if there is none."""
        command = "SELECT id FROM conversation WHERE ?1 IS NULL OR program = ?1 ORDER BY changed DESC, id DESC LIMIT 1"
        with self._explained("cannot be read"):
            row = self._db.execute(command, (program,)).fetchone()
        return row[0] if row else None

    def names(self) -> list[str]:
        """Return the names of the conversations that have one, the one changed last first."""
        command = "SELECT name FROM conversation WHERE name IS NOT NULL ORDER BY changed DESC, id DESC"
        with self._explained("cannot be read"):
            return [name for (name,) in self._db.execute(command)]

    def listed(self, most: int) -> list[Listed]:
        """Return up to ``most`` conversations, the one changed last first."""
        command = f"{_LISTED.format(text=_BEGINNING)} ORDER BY changed DESC, c.id DESC LIMIT ?"
        with self._explained("cannot be read"):
            return [_listed(row) for row in self._db.execute(command, (most,))]

    def search(self, words: str, most: int) -> list[Listed]:
        """Return up to ``most`` conversations that have all ``words``, or words that begin so, in one message. Text
        around them takes the place of the beginning. The best come first."""
        query = " ".join('"{}"*'.format(word.replace('"', '""')) for word in words.split())
        command = """
            WITH found AS MATERIALIZED (
              SELECT rowid, rank AS score, snippet(words, 0, '', '', '…', 16) AS part FROM words WHERE words MATCH ?),
            hits AS (
              SELECT m.conversation AS id, min(f.score) AS score, f.part AS part
              FROM found AS f JOIN message AS m ON m.id = f.rowid GROUP BY m.conversation)
            """
        command += _LISTED.format(text="hits.part") + " JOIN hits ON hits.id = c.id ORDER BY hits.score LIMIT ?"
        with self._explained("cannot be searched"):
            rows = self._db.execute(command, (query, most)).fetchall() if query else []
        return [_listed(row) for row in rows]

    def remove(self, id: int) -> None:
        """Delete a conversation. Raises HistoryError."""
        with self._explained("cannot be written"), self._transaction():
            self._db.execute("DELETE FROM message WHERE conversation = ?", (id,))
            self._db.execute("DELETE FROM conversation WHERE id = ?", (id,))

    def hold(self, id: int) -> bool:
        """Return whether this process may go on with a conversation: no other one does, until this one closes."""
        with self._explained("cannot be locked"):
            if self._locks is None:
                self._locks = os.open(self.path.with_name("open"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, id)
            except BlockingIOError:
                return False
            except PermissionError:  # what some systems say instead
                return False
        return True

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        if self._version() < VERSION:
            with self._transaction():
                if self._version() == 0:  # no other process was faster
                    for statement in _statements(SCHEMA):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {VERSION}")
        if self._version() > VERSION:
            raise HistoryError(f"{self.path}: written by a newer version of gptoss-mac; update this one")
        self._import_sessions()

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _import_sessions(self) -> None:
        """Take over the sessions that earlier versions kept in folders. Each is read once, also if it is damaged."""
        folder = sessions_dir()
        if not folder.is_dir():
            return
        found = {path.parent.name: path for path in folder.glob("*/session.json")}
        known = {name for (name,) in self._db.execute("SELECT name FROM imported")}
        for name in sorted(found.keys() - known):
            with self._transaction():
                if not self._db.execute("INSERT OR IGNORE INTO imported VALUES (?)", (name,)).rowcount:
                    continue  # another process has just taken it over
                try:
                    old = read_old_session(found[name])
                except SessionError as error:
                    self.notices.append(f"{error}; it is left where it is")
                    continue
                taken = self._db.execute("SELECT 1 FROM conversation WHERE name = ?", (name,)).fetchone()
                row = (None if taken else name, "chat", old.saved, old.saved, json.dumps(old.settings))
                command = "INSERT INTO conversation (name, program, began, changed, settings) VALUES (?, ?, ?, ?, ?)"
                id = self._db.execute(command, row).lastrowid or 0
                self._save_messages(id, [json.dumps(message) for message in old.messages], old.messages)

    def _save_messages(self, id: int, new: list[str], messages: list[dict[str, Any]]) -> None:
        """Replace the messages from the first that differs on."""
        command = "SELECT message FROM message WHERE conversation = ? ORDER BY position"
        old = [message for (message,) in self._db.execute(command, (id,))]
        same = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        if same < len(old):
            self._db.execute("DELETE FROM message WHERE conversation = ? AND position >= ?", (id, same))
        command = "INSERT INTO message (conversation, position, said, text, message) VALUES (?, ?, ?, ?, ?)"
        for position in range(same, len(new)):
            message = messages[position]
            said = message["channel"] != "analysis"
            self._db.execute(command, (id, position, said, message["content"], new[position]))

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _explained(self, problem: str) -> Iterator[None]:
        """Raise what SQLite or the system says as a HistoryError."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            remedy = "check permissions and free space, or move the file away to begin a new history"
            raise HistoryError(f"{shown(str(self.path))}: {problem} ({why}); {remedy}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise HistoryError(f"{shown(str(self.path))}: {problem} (damaged)") from error


_BEGINNING = "(SELECT substr(text, 1, 200) FROM message WHERE conversation = c.id AND said ORDER BY position LIMIT 1)"
_LISTED = """
    SELECT c.id, c.name, c.program, c.changed, json_extract(c.settings, '$.model'),
      (SELECT count(*) FROM message WHERE conversation = c.id AND said),
      {text}
    FROM conversation AS c"""


def _listed(row: tuple[Any, ...]) -> Listed:
    id, name, program, changed, model, count, text = row
    return Listed(id, name, program, changed, model or "", count, text or "")


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script. SQLite's own way of running one would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def opened_history() -> Iterator[History]:
    """Yield the open database. Raises HistoryError."""
    with closing(History()) as history:
        yield history
