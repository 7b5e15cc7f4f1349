"""Compiles a full-size draw of Stable Video Diffusion for hardware that is not here.

    python tests/aot/draw.py PLATFORM FRAMES CHUNK DTYPE WINDOW DEVICES

prints the bytes that the compiled program takes of each device, of which temporary, and those of
the estimate for one window, as JSON. PLATFORM is hardware such as "v5e:2x2" or "h100:1", of which
DEVICES share the frames. A video of more frames than WINDOW is drawn in windows that share half of
their frames, all of them at every noise level. Needs libtpu or JAX's CUDA plugin, but neither TPU
nor GPU; its environment is that of `test_memory.compiled`.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.core import mesh as meshes
from vdm_jax.core.absent import Absent, absent
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.windows import FIRST, windowed
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.cond import frames_of
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import SVD_VAE
from vdm_jax.nn.pieces import Chunked
from vdm_jax.nn.platform import compiling_for
from vdm_jax.sample.estimate import Setting, estimate
from vdm_jax.sample.generate import Generator
from vdm_jax.sample.load import in_dtype
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import ModelConfig, tuned

SVD = ModelConfig(SVDUNetConfig(), vae=SVD_VAE, image_encoder=CLIPVisionConfig())


def sharing(hardware: Absent, devices: int) -> Mesh:
    """The first devices of hardware that is not here, for the frames of one video."""
    sizes = tuple(devices if axis == "context" else 1 for axis in meshes.MESH_AXES)
    return Mesh(np.array(hardware.devices[:devices]).reshape(sizes), meshes.MESH_AXES)


def compiled_draw(
    task: StableVideo, model: ModelConfig, dtype: str, hardware: Absent, mesh: Mesh, window: int
):
    """The program that `sample` runs for one picture."""
    whole = meshes.replicated(mesh)

    def place(a, dtype=None):
        return jax.ShapeDtypeStruct(a.shape, dtype or a.dtype, sharding=whole)

    _, params = nnx.split(meshes.build_abstract(lambda: model.build(rngs=nnx.Rngs(0))), nnx.Param)
    picture = np.zeros((task.video.height, task.video.width, 3), np.uint8)
    arrays = task.request(model, [""], [picture]) | {"row": np.zeros(1, np.int32)}

    def around(denoise: Denoiser) -> Denoiser:
        return windowed(denoise, window, window // 2, FIRST, frames_of)

    generator = Generator(task, model, mesh, batch_size=1, around=around)
    with jax.set_mesh(mesh):
        traced = generator.run.trace(
            jax.tree.map(lambda a: place(a, dtype), params),
            jax.tree.map(place, arrays),
            place(jax.eval_shape(lambda: jax.random.key(0))),
        )
        return traced.lower(lowering_platforms=(hardware.lowering,)).compile()


def main(
    name: str, frames: int, chunk: int, dtype: str, window: int, devices: int
) -> dict[str, int]:
    size = {"height": 576, "width": 1024}
    task = tuned(StableVideo(), {**size, "num_frames": frames, "decoding": Chunked(chunk)})
    hardware = absent(name)
    mesh = sharing(hardware, devices)
    with compiling_for(hardware.platform):
        setting = Setting(**size, num_frames=min(frames, window), chunk=chunk)
        expected = estimate(SVD, setting, dtype)
        compiled = compiled_draw(task, in_dtype(SVD, dtype), dtype, hardware, mesh, window)
    memory = compiled.memory_analysis()
    temporary = memory.temp_size_in_bytes
    taken = memory.argument_size_in_bytes + memory.output_size_in_bytes + temporary
    return {"taken": taken, "temporary": temporary, "estimate": expected.peak_bytes}


if __name__ == "__main__":
    name, frames, chunk, dtype, window, devices = sys.argv[1:]
    sizes = int(frames), int(chunk), str(jnp.dtype(dtype)), int(window), int(devices)
    print(json.dumps(main(name, *sizes)))
