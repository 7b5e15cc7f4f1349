"""Compiles a full-size draw of Stable Video Diffusion for hardware that is not here.

    python tests/aot/draw.py PLATFORM FRAMES CHUNK DTYPE

prints the bytes that the compiled program takes, of which temporary, and those of the estimate, as
JSON. PLATFORM is hardware of which one device is used, such as "v5e:2x2" or "h100:1". Needs libtpu
or JAX's CUDA plugin, but neither TPU nor GPU; its environment is that of `test_memory.compiled`.
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
from vdm_jax.models.clip_vision import CLIPVisionConfig
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


def alone(hardware: Absent) -> Mesh:
    """The first device of hardware that is not here."""
    device = np.array(hardware.devices[:1]).reshape((1,) * len(meshes.MESH_AXES))
    return Mesh(device, meshes.MESH_AXES)


def compiled_draw(task: StableVideo, model: ModelConfig, dtype: str, hardware: Absent):
    """The program that `sample` runs for one picture, compiled for one device."""
    mesh = alone(hardware)
    whole = meshes.replicated(mesh)

    def place(a, dtype=None):
        return jax.ShapeDtypeStruct(a.shape, dtype or a.dtype, sharding=whole)

    _, params = nnx.split(meshes.build_abstract(lambda: model.build(rngs=nnx.Rngs(0))), nnx.Param)
    picture = np.zeros((task.video.height, task.video.width, 3), np.uint8)
    arrays = task.request(model, [""], [picture]) | {"row": np.zeros(1, np.int32)}
    generator = Generator(task, model, mesh, batch_size=1)
    with jax.set_mesh(mesh):
        traced = generator.run.trace(
            jax.tree.map(lambda a: place(a, dtype), params),
            jax.tree.map(place, arrays),
            place(jax.eval_shape(lambda: jax.random.key(0))),
        )
        return traced.lower(lowering_platforms=(hardware.lowering,)).compile()


def main(name: str, frames: int, chunk: int, dtype: str) -> dict[str, int]:
    settings = {"num_frames": frames, "height": 576, "width": 1024}
    task = tuned(StableVideo(), {**settings, "decoding": Chunked(chunk)})
    hardware = absent(name)
    with compiling_for(hardware.platform):
        setting = Setting(**settings, chunk=chunk)
        expected = estimate(SVD, setting, dtype)
        compiled = compiled_draw(task, in_dtype(SVD, dtype), dtype, hardware)
    memory = compiled.memory_analysis()
    temporary = memory.temp_size_in_bytes
    taken = memory.argument_size_in_bytes + memory.output_size_in_bytes + temporary
    return {"taken": taken, "temporary": temporary, "estimate": expected.peak_bytes}


if __name__ == "__main__":
    name, frames, chunk, dtype = sys.argv[1:]
    print(json.dumps(main(name, int(frames), int(chunk), str(jnp.dtype(dtype)))))
