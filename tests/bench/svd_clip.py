"""A whole clip of Stable Video Diffusion XT on an accelerator, ours beside diffusers'.

    python tests/bench/svd.py --gpu

25 frames of 576x1024 pixels from a picture, 25 steps with guidance, bfloat16, random weights (they
do not change the time), everything from the image encoder to the decoded frames, 8 at a time.
Theirs runs eagerly and with its U-Net compiled. The fraction is that of the peak of a matrix
product, measured by both libraries in the same run: what is left is spent on memory traffic
(norms, activations, softmax) and on shapes that fill the matrix units badly. `--trace FOLDER`
writes a profile of one clip of ours, to see which. Set `--threads` to the cores of the machine.
"""

import argparse
import statistics
from pathlib import Path

from side_by_side import HEADER, Calls, Row, Worker, measure

CLIP = {"num_frames": 25, "height": 576, "width": 1024}
STEPS, CHUNK = 25, 8
CLIP_FLOPS = 4.17e15
MATRIX = 8192
BAR, FRACTION_BAR = 0.8, 0.45


def jax_worker(args):
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from vdm_jax.core.mesh import MeshConfig, build_abstract
    from vdm_jax.models.clip_vision import CLIP_VIT_H
    from vdm_jax.models.svd_unet import SVD_XT
    from vdm_jax.models.vae import SVD_VAE
    from vdm_jax.nn.pieces import Chunked
    from vdm_jax.sample.generate import Generator
    from vdm_jax.sample.load import in_dtype
    from vdm_jax.tasks.stable_video import StableVideo
    from vdm_jax.tasks.task import ModelConfig, tuned

    model = ModelConfig(network=SVD_XT, vae=SVD_VAE, image_encoder=CLIP_VIT_H)
    model = in_dtype(model, "bfloat16")
    task = tuned(StableVideo(decoding=Chunked(CHUNK)), {**CLIP, "num_steps": STEPS})
    generator = Generator(task, model, MeshConfig().build(), batch_size=1)
    abstract = build_abstract(lambda: model.build(rngs=nnx.Rngs(0)))
    _, abstract = nnx.split(abstract, nnx.Param)
    rng = np.random.default_rng(0)

    def drawn(shape):
        return jnp.asarray(0.02 * rng.standard_normal(shape.shape, np.float32), "bfloat16")

    params = jax.tree.map(drawn, abstract)
    picture = rng.integers(0, 256, (CLIP["height"], CLIP["width"], 3), np.uint8)
    square = jnp.ones((MATRIX, MATRIX), "bfloat16")
    product = jax.jit(jnp.matmul)

    def run():
        return generator(params, [""], [picture], seed=0)

    run()
    if args.trace:
        with jax.profiler.trace(args.trace):
            run()
    calls: Calls = {
        "forward": run,
        "forward, matmul": lambda: jax.block_until_ready(product(square, square)),
    }
    return {"library": f"vdm_jax (jax {jax.__version__})", "device": str(jax.devices()[0])}, calls


def torch_worker(args):
    import diffusers
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    del args
    torch.set_default_dtype(torch.bfloat16)
    encoder = CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=1024,
        hidden_act="gelu",
    )
    vae = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_block": 2,
    }
    with torch.device("cuda"):
        parts = {
            "vae": diffusers.AutoencoderKLTemporalDecoder(**vae),
            "image_encoder": CLIPVisionModelWithProjection(encoder),
            "unet": diffusers.UNetSpatioTemporalConditionModel(
                num_attention_heads=(5, 10, 20, 20), num_frames=CLIP["num_frames"]
            ),
        }
    torch.set_default_dtype(torch.float32)
    pipeline = diffusers.StableVideoDiffusionPipeline(
        **parts,
        scheduler=diffusers.EulerDiscreteScheduler(
            prediction_type="v_prediction",
            timestep_type="continuous",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
        ),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    eager = pipeline.unet
    compiled = torch.compile(eager)
    picture = Image.new("RGB", (CLIP["width"], CLIP["height"]))
    square = torch.ones(MATRIX, MATRIX, dtype=torch.bfloat16, device="cuda")

    def run(unet):
        pipeline.unet = unet
        pipeline(
            picture, **CLIP, num_inference_steps=STEPS, decode_chunk_size=CHUNK, output_type="np"
        )

    def matmul():
        square @ square
        torch.cuda.synchronize()

    library = f"diffusers {diffusers.__version__} (torch {torch.__version__})"
    return {"library": library, "device": torch.cuda.get_device_name()}, {
        "forward": lambda: run(eager),
        "forward, compiled": lambda: run(compiled),
        "forward, matmul": matmul,
    }


WORKERS = {"ours": jax_worker, "theirs": torch_worker}


def clip(folder: Path, args: argparse.Namespace) -> None:
    """Print the comparison."""
    workers = {name: Worker(name, "clip", folder, args) for name in WORKERS}
    try:
        times = measure(workers, list(workers["theirs"].told["calls"]), args.rounds)
    finally:
        for worker in workers.values():
            worker.stop()
    for worker in workers.values():
        print(f"{worker.told['library']} on {worker.told['device']}")
    products = times.pop("forward, matmul")
    peak = 2 * MATRIX**3 / min(min(took) for took in products.values())
    print(*HEADER, sep="\n")
    ours = times["forward"]["ours"]
    for name, sides in times.items():
        print(Row(name.replace("forward", "clip"), ours, sides["theirs"], BAR))
    fraction = CLIP_FLOPS / statistics.median(ours) / peak
    held = "held" if fraction >= FRACTION_BAR else "missed"
    print(
        f"{CLIP_FLOPS / statistics.median(ours) / 1e12:.0f} TFLOP/s, {fraction:.0%} of the peak of "
        f"{peak / 1e12:.0f} ({FRACTION_BAR:.0%} {held})"
    )
