"""The names of CLIP's two towers in transformers.

CLIPVisionModelWithProjection and CLIPTextModel.
"""

from vdm_jax.convert import layout
from vdm_jax.convert.rules import (
    layer_norm,
    linear,
    linear_out,
    one,
    rules,
    unbiased,
    under,
)

ATTENTION = rules(
    linear("q_proj", "to_q"),
    linear("k_proj", "to_k"),
    linear("v_proj", "to_v"),
    linear_out("out_proj", "to_out"),
)
LAYER = rules(
    layer_norm("layer_norm1", "norm1"),
    under("self_attn", "attention", ATTENTION),
    layer_norm("layer_norm2", "norm2"),
    linear("mlp.fc1", "fc1"),
    linear("mlp.fc2", "fc2"),
)

VISION = rules(
    one("vision_model.embeddings.class_embedding", "class_embedding"),
    one("vision_model.embeddings.patch_embedding.weight", "patch/kernel", layout.CONV),
    one("vision_model.embeddings.position_embedding.weight", "position_embedding"),
    layer_norm("vision_model.pre_layrnorm", "pre_norm"),
    under("vision_model.encoder.layers.{}", "layers/{}", LAYER),
    layer_norm("vision_model.post_layernorm", "post_norm"),
    unbiased("visual_projection", "projection"),
)
TEXT = rules(
    one("text_model.embeddings.token_embedding.weight", "token_embedding"),
    one("text_model.embeddings.position_embedding.weight", "position_embedding"),
    under("text_model.encoder.layers.{}", "layers/{}", LAYER),
    layer_norm("text_model.final_layer_norm", "final_norm"),
)

TEXT_PREFIX = "text_model."


def prefixed(name: str) -> str:
    """What a tensor of the text tower was called until transformers 5, which has no prefix."""
    return name if name.startswith(TEXT_PREFIX) else f"{TEXT_PREFIX}{name}"
