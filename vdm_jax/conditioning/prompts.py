"""Several prompts along one video: the tokens of each frame.

Qiu et al. 2024 (FreeNoise, arXiv:2310.15169), section 3.4. From one prompt to the next, which takes
the same number of frames for each pair, the first holds for 3/8 of the way and the second for the
last 3/8; between, their embeddings are blended linearly. The paper gives blended prompts to some
layers at some steps only; here all layers get them at each step.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.models.cond import Tokens

HELD = 3 / 8  # of the way between two prompts, at each end


def along(prompts: Sequence[Tokens], num_frames: int) -> Tokens:
    """Tokens "b t l d" that go from prompt to prompt, each "b l d"; one prompt holds throughout.

    A token is real where it is so in a prompt that the frame has a share of.

    Raises:
        Refusal: if there is no prompt, or if prompts differ in shape.
    """
    shapes = [prompt.embedding.shape for prompt in prompts]
    if not shapes or len(shapes[0]) != 3 or len(set(shapes)) > 1:
        raise Refusal(f"prompts have the shapes {shapes}; all must be the same, (videos, l, d)")
    shares = jnp.asarray(prompt_shares(len(prompts), num_frames))
    embedding = jnp.stack([prompt.embedding for prompt in prompts])
    mask = jnp.stack([prompt.mask for prompt in prompts])
    real = (shares > 0)[:, :, None, None] & mask[None]
    blended = jnp.einsum("tp,pbld->btld", shares, embedding, precision="highest")
    return Tokens(blended.astype(embedding.dtype), jnp.moveaxis(real.any(1), 0, 1))


def prompt_shares(num_prompts: int, num_frames: int) -> Float[np.ndarray, "{num_frames} p"]:
    """How much each frame has of each prompt; a row sums to 1. A frame counts by its middle."""
    way = (np.arange(num_frames) + 0.5) / num_frames * (num_prompts - 1)
    before = np.minimum(way.astype(int), max(num_prompts - 2, 0))
    later = np.clip((way - before - HELD) / (1 - 2 * HELD), 0, 1)
    shares = np.zeros((num_frames, num_prompts), np.float32)
    frames = np.arange(num_frames)
    shares[frames, before] = 1 - later
    shares[frames, np.minimum(before + 1, num_prompts - 1)] += later
    return shares
