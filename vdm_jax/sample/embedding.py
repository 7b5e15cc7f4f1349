"""Captions that were embedded elsewhere, from a numpy file: what stands in place of a prompt."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from vdm_jax.core.refusal import Refusal


def read(path: str | Path) -> Float[np.ndarray, "n l d"]:
    """The embeddings in a .npy file, of one caption "l d" or of several "n l d".

    Nothing but what the file holds takes memory, and nothing in it is executed.

    Raises:
        Refusal: if there is no such file, or it holds no such array.
    """
    try:
        held = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise Refusal(f"--embedding {path}: no such file") from None
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise Refusal(f"--embedding {path}: it is no array in a .npy file") from error
    if held.dtype.kind != "f" or held.ndim not in (2, 3) or not held.size:
        shape = list(held.shape)
        raise Refusal(
            f"--embedding {path} holds {held.dtype} of the shape {shape}; floating-point numbers "
            "[tokens, features] are needed, or [captions, tokens, features]"
        )
    return np.asarray(held, np.float32).reshape(-1, *held.shape[-2:])


def spread(
    embedding: Float[np.ndarray, "n l d"], groups: int, each: int
) -> Float[np.ndarray, "m l d"]:
    """One embedding for each video: of one or of `groups` captions, each for `each` videos.

    Raises:
        Refusal: if there are neither one nor `groups`.
    """
    count = len(embedding)
    if count not in (1, groups):
        raise Refusal(f"--embedding holds {count} captions; give one, or one for each of {groups}")
    return np.repeat(np.broadcast_to(embedding, (groups, *embedding.shape[1:])), each, axis=0)
