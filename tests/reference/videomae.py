"""Tiny VideoMAE encoders of transformers, and their weights as the authors' files name them."""

import torch
from transformers import VideoMAEConfig

SIZES = {
    "image_size": 48, "patch_size": 16, "num_frames": 6, "tubelet_size": 2, "hidden_size": 24,
    "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 44,
    "decoder_hidden_size": 8, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1,
    "decoder_intermediate_size": 8,
}  # fmt: skip
NAMES = (
    ("encoder.layer.", "blocks."),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("attention.output.dense", "attn.proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("classifier", "head"),
    ("layernorm.", "norm."),
    ("attention.attention.", "attn."),
    ("query.bias", "q_bias"),
    ("value.bias", "v_bias"),
)


def model(kind, **changes):
    """One of transformers' classes with every weight drawn, norms near 1."""
    made = kind(VideoMAEConfig(**{**SIZES, **changes})).eval().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator).double()
            scale = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_((scale * noise + ("norm" in name and "weight" in name)).float())
    return made


def original(made):
    """The state of a model under the names that the authors' code gives it."""
    table = {}
    for name, tensor in made.state_dict().items():
        name = name.removeprefix("videomae.")
        for theirs, authors in NAMES:
            name = name.replace(theirs, authors)
        table[name] = tensor.float()
    for name in [name for name in table if name.endswith("attn.query.weight")]:
        stem = name.removesuffix("query.weight")
        parts = [table.pop(f"{stem}{part}.weight") for part in ("query", "key", "value")]
        table[f"{stem}qkv.weight"] = torch.cat(parts)
    return table
