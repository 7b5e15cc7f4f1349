"""CLIP's tokenizer, from files on this machine: captions to token numbers.

The files are those that are published beside a model's weights, in its folder `tokenizer`; a model
directory keeps them in a folder of its own. Nothing is ever downloaded.
"""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from vdm_jax.core.refusal import Refusal

LOG = logging.getLogger(__name__)

FORMS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Files that hold the vocabulary: all of the first row, or all of the second."""
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files that change how it is used, such as the padding token; each may be absent."""
MAX_BYTES = 32 << 20  # of one file; CLIP's vocabulary is 1 MB


def tokenize(
    folder: Path, captions: Sequence[str], max_tokens: int
) -> Int[np.ndarray, "b {max_tokens}"]:
    """Token numbers: begin, the caption, end, then padding; int32.

    A caption that is too long is cut, with a warning that says what is lost.

    Raises:
        Refusal: if the files are missing or are not those of a tokenizer.
    """
    tokenizer = _loaded(folder.absolute())
    room = max_tokens - 2  # for begin and end
    ids = np.full((len(captions), max_tokens), tokenizer.pad_token_id, np.int32)
    for row, caption in zip(ids, captions, strict=True):
        words = tokenizer.encode(caption, add_special_tokens=False, verbose=False)
        if len(words) > room:
            lost = tokenizer.decode(words[room:])
            LOG.warning("caption cut after %d tokens, losing: %s", room, lost)
        words = [tokenizer.bos_token_id, *words[:room], tokenizer.eos_token_id]
        row[: len(words)] = words
    return ids


def texts(folder: Path) -> dict[str, str]:
    """The tokenizer's files in a folder by name, to be kept elsewhere; other files stay behind.

    Raises:
        Refusal: if the files are missing.
    """
    return {name: (folder / name).read_text(encoding="utf-8") for name in present(folder)}


def present(folder: Path) -> list[str]:
    """Names of the tokenizer's files in a folder; refuses an incomplete or an outsized set."""
    names = [name for name in (*sum(FORMS, ()), *SETTINGS) if (folder / name).is_file()]
    if not any(set(form) <= set(names) for form in FORMS):
        wanted = " or ".join(" and ".join(form) for form in FORMS)
        raise Refusal(f"{folder} holds no tokenizer: it must have {wanted}")
    for name in names:
        size = (folder / name).stat().st_size
        if size > MAX_BYTES:
            raise Refusal(f"{folder / name} has {size} bytes; at most {MAX_BYTES} are read")
    return names


@functools.lru_cache(maxsize=4)
def _loaded(folder: Path) -> Any:
    """The tokenizer of a folder. Its library is imported here, since that takes a second."""
    present(folder)
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    except Exception as error:  # the library raises many kinds, bare Exception among them
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise Refusal(f"{folder} holds a tokenizer that cannot be read: {reason}") from error
    if None in special:
        raise Refusal(f"{folder} holds a tokenizer without a begin, end or padding token")
    return tokenizer
