"""Tokenizers of CLIP and of BERT, from files on this machine: captions to token numbers.

The files are those that are published beside a model's weights, CLIP's in a folder `tokenizer`; a
model directory keeps them in a folder of its own. Nothing is ever downloaded.
"""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from vdm_jax.core.refusal import Refusal

LOG = logging.getLogger(__name__)


class Kind(NamedTuple):
    """A family of tokenizers: its class in transformers, how that calls what begins and ends a text
    and what pads it, and the files that hold its vocabulary: all of one of the rows."""

    library: str
    begin: str
    end: str
    padding: str
    forms: tuple[tuple[str, ...], ...]


CLIP = Kind(
    "CLIPTokenizer", "bos_token_id", "eos_token_id", "pad_token_id",
    (("tokenizer.json",), ("vocab.json", "merges.txt")),
)  # fmt: skip
BERT = Kind(
    "BertTokenizer", "cls_token_id", "sep_token_id", "pad_token_id",
    (("tokenizer.json",), ("vocab.txt",)),
)  # fmt: skip
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files that change how it is used, such as the padding token; each may be absent."""
MAX_BYTES = 32 << 20  # of one file; CLIP's vocabulary is 1 MB


def tokenize(
    folder: Path, captions: Sequence[str], max_tokens: int
) -> Int[np.ndarray, "b {max_tokens}"]:
    """CLIP's token numbers: begin, the caption, end, then padding; int32.

    A caption that is too long is cut, with a warning that says what is lost.

    Raises:
        Refusal: if the files are missing or are not those of a tokenizer.
    """
    padding = getattr(_loaded(folder.absolute(), CLIP), CLIP.padding)
    return padded(pieces(folder, captions, max_tokens, CLIP), max_tokens, padding)


def pieces(folder: Path, captions: Sequence[str], max_tokens: int, kind: Kind) -> list[list[int]]:
    """Token numbers of each caption between begin and end, at most `max_tokens` of them.

    Warns and refuses as `tokenize`.
    """
    tokenizer = _loaded(folder.absolute(), kind)
    begin, end = getattr(tokenizer, kind.begin), getattr(tokenizer, kind.end)
    room = max_tokens - 2  # for begin and end
    found = []
    for caption in captions:
        words = tokenizer.encode(caption, add_special_tokens=False, verbose=False)
        if len(words) > room:
            lost = tokenizer.decode(words[room:])
            LOG.warning("caption cut after %d tokens, losing: %s", room, lost)
        found.append([begin, *words[:room], end])
    return found


def padded(
    rows: Sequence[Sequence[int]], length: int, padding: int
) -> Int[np.ndarray, "b {length}"]:
    """The rows as one array, filled up."""
    ids = np.full((len(rows), length), padding, np.int32)
    for row, words in zip(ids, rows, strict=True):
        row[: len(words)] = words
    return ids


def texts(folder: Path, kind: Kind = CLIP) -> dict[str, str]:
    """The tokenizer's files in a folder by name, to be kept elsewhere; other files stay behind.

    Raises:
        Refusal: if the files are missing.
    """
    return {name: (folder / name).read_text(encoding="utf-8") for name in present(folder, kind)}


def present(folder: Path, kind: Kind = CLIP) -> list[str]:
    """Names of the tokenizer's files in a folder; refuses an incomplete or an outsized set."""
    names = [name for name in (*sum(kind.forms, ()), *SETTINGS) if (folder / name).is_file()]
    if not any(set(form) <= set(names) for form in kind.forms):
        wanted = " or ".join(" and ".join(form) for form in kind.forms)
        raise Refusal(f"{folder} holds no tokenizer: it must have {wanted}")
    for name in names:
        size = (folder / name).stat().st_size
        if size > MAX_BYTES:
            raise Refusal(f"{folder / name} has {size} bytes; at most {MAX_BYTES} are read")
    return names


@functools.lru_cache(maxsize=4)
def _loaded(folder: Path, kind: Kind) -> Any:
    """The tokenizer of a folder. Its library is imported here, since that takes a second."""
    present(folder, kind)
    import transformers

    try:
        family = getattr(transformers, kind.library)
        tokenizer = family.from_pretrained(folder, local_files_only=True)
        special = [getattr(tokenizer, name) for name in (kind.begin, kind.end, kind.padding)]
    except Exception as error:  # the library raises many kinds, bare Exception among them
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise Refusal(f"{folder} holds a tokenizer that cannot be read: {reason}") from error
    if None in special:
        raise Refusal(f"{folder} holds a tokenizer without a begin, end or padding token")
    return tokenizer
