"""What text encoders that were trained beforehand have alike: a tokenizer in a folder of files."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Int

from vdm_jax.conditioning import tokenizer
from vdm_jax.core.refusal import Refusal

Tower = TypeVar("Tower", bound="TextTower")

FOLDER = "tokenizer"
"""Of the tokenizer's files, in a model directory and in a run directory."""


@dataclass(frozen=True, kw_only=True)
class TextTower(ABC):
    """A text encoder of fixed weights, and the folder of its tokenizer's files.

    tokenizer: in a training config a path from the working directory. A model directory, and that
    of a run, keeps the files in its own `FOLDER`: whoever reads such a config calls `at`.
    """

    KIND: ClassVar[tokenizer.Kind]

    tokenizer: str = FOLDER

    def at(self: Tower, directory: Path) -> Tower:
        """The config of a model or of a run in `directory`, whose tokenizer lies there."""
        return replace(self, tokenizer=str(directory.absolute() / FOLDER))

    def texts(self) -> dict[str, str]:
        """The tokenizer's files, by the names that they have in a directory of this encoder's.

        Raises:
            Refusal: if the files are missing.
        """
        files = tokenizer.texts(Path(self.tokenizer), self.KIND)
        return {f"{FOLDER}/{name}": content for name, content in files.items()}

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Tokens of a caption, and features of a token."""

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> Int[np.ndarray, "b l"]:
        """Token numbers of each caption."""

    @abstractmethod
    def blank(self, count: int) -> Int[np.ndarray, "{count} l"]:
        """In the shape of `tokenize`; reads no file."""

    @abstractmethod
    def reading(self, captions: Sequence[str]) -> list[Any]:
        """What decides, besides the weights, what becomes of captions; as JSON has it."""

    def known(self, ids: Int[np.ndarray, "b l"], vocabulary: int) -> Int[np.ndarray, "b l"]:
        """`ids`; refuses those of a tokenizer of a larger vocabulary."""
        if ids.size and ids.max() >= vocabulary:
            raise Refusal(
                f"the tokenizer in {self.tokenizer} gives token {ids.max()}; this model knows "
                f"{vocabulary}"
            )
        return ids
