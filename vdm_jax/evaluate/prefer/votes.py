"""votes.jsonl: a line for each choice of a rater, on the disk before the rater sees the next pair.

A choice that was taken back is a line too. A last line without its end was being written when the
process died, and was never acknowledged: it does not count.
"""

import datetime
import errno
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from vdm_jax.core import manifest
from vdm_jax.core.refusal import Refusal

NAME, ALL = "votes.jsonl", "votes*.jsonl"
Choice = Literal["left", "right", "tie"]
CHOICES = get_args(Choice)
UNDO = "undo"


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What a rater chose; "undo" takes back the choice on the same videos and question.

    milliseconds: from the moment both videos played.
    """

    time: str
    rater: str
    question: str
    name: str
    left: str
    right: str
    choice: str
    milliseconds: int

    @property
    def about(self) -> tuple[object, ...]:
        """What it is a vote on; a later vote on the same takes its place."""
        return self.rater, self.question, self.name, frozenset((self.left, self.right))


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def standing(votes: Iterable[Vote]) -> dict[tuple[object, ...], Vote]:
    """Those that were not taken back, by what they are about."""
    held: dict[tuple[object, ...], Vote] = {}
    for vote in votes:
        held.pop(vote.about, None)
        if vote.choice != UNDO:
            held[vote.about] = vote
    return held


def read(output: Path) -> list[Vote]:
    """All votes of a folder: its own and those brought there as votes-NAME.jsonl.

    Raises Refusal naming the file and the line where one is damaged.
    """
    return [vote for path in sorted(output.glob(ALL)) for vote in _read(path)]


def _read(path: Path) -> list[Vote]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as fault:
        raise Refusal(f"{path}: cannot be read: {fault.strerror}") from fault
    votes = []
    for number, line in enumerate(lines, 1):
        try:
            vote = Vote(**json.loads(line))
            texts = (vote.time, vote.rater, vote.question, vote.name, vote.left, vote.right)
            if not all(isinstance(text, str) for text in texts) or (
                vote.choice not in (*CHOICES, UNDO) or type(vote.milliseconds) is not int
            ):
                raise ValueError("not a vote")
        except (ValueError, TypeError, RecursionError):
            raise Refusal(f"{path}: line {number} is no vote; mend or remove it") from None
        votes.append(vote)
    return votes


class Ledger:
    """The open file of votes; the caller holds the folder's lock."""

    def __init__(self, output: Path) -> None:
        path = output / NAME
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        content = path.read_bytes()
        self._size = content.rfind(b"\n") + 1
        os.ftruncate(self._file, self._size)
        os.fsync(self._file)
        manifest.force(output)

    def add(self, vote: Vote) -> None:
        """Returns once it is on the disk; otherwise OSError, and the file is as it was."""
        line = json.dumps(asdict(vote)).encode() + b"\n"
        try:
            written = os.pwrite(self._file, line, self._size)
            if written < len(line):
                raise OSError(errno.ENOSPC, "no space left on the device")
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)

    def close(self) -> None:
        os.close(self._file)
