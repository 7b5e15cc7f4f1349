# ---
# jupyter:
#   accelerator: TPU
#   colab:
#     gpuType: V5E1
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: accelerator,colab,kernelspec
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vdm-jax/vdm_jax/blob/main/colab/animate_a_picture.ipynb)
#
# # Animate a picture
#
# Stable Video Diffusion in JAX: convert its published weights, give it a picture, and turn the knobs of
# motion and guidance.
#
# **Minutes to expect.** Not measured on a TPU yet, and far too slow on CPU cores at full size. Expect a
# download of about 4.5 GB and a compilation of some minutes. With `smoke`, a tiny model without training
# takes two minutes on two CPU cores, measured; its frames are noise.
#
# **The weights are not ours.** Read and accept their licence at
# [huggingface.co](https://huggingface.co/stabilityai/stable-video-diffusion-img2vid), then put a token
# of your account into Colab's secrets under the name `HF_TOKEN`, or into the environment.

# %%
# @title Install
import os
import runpy

SOURCE = os.environ.get("VDM_JAX_SOURCE", "vdm_jax")
# !test -d {SOURCE} || git clone --quiet --depth 1 https://github.com/vdm-jax/vdm_jax {SOURCE}
runpy.run_path(f"{SOURCE}/colab/install.py")["install"]("notebook")

# %%
# @title Settings
weights = "stabilityai/stable-video-diffusion-img2vid"  # @param {type: "string"}
picture = ""  # @param {type: "string"}
motion_bucket_id = 127  # @param {type: "slider", min: 1, max: 255}
max_guidance_scale = 3.0  # @param {type: "slider", min: 1, max: 6, step: 0.5}
num_steps = 25  # @param {type: "integer"}
num_frames = 14  # @param {type: "integer"}
height = 320  # @param {type: "integer"}
width = 576  # @param {type: "integer"}
keep_on_drive = False  # @param {type: "boolean"}
smoke = False  # @param {type: "boolean"}

from pathlib import Path

from vdm_jax.core import notebook

form = notebook.form(
    weights=weights,
    picture=picture,
    motion_bucket_id=motion_bucket_id,
    max_guidance_scale=max_guidance_scale,
    num_steps=num_steps,
    num_frames=num_frames,
    height=height,
    width=width,
    keep_on_drive=keep_on_drive,
    smoke=smoke,
)
if form.keep_on_drive:
    notebook.mount_drive()
made = notebook.results("animate_a_picture_smoke" if form.smoke else "animate_a_picture")

# %% [markdown]
# `weights` is a repository on Hugging Face, or a folder or `.safetensors` file that you already have.
# `picture` is the path of an uploaded file; without one, a shape on a dark ground is animated.
#
# ## The weights
#
# Half precision, in safetensors: nothing in them is executed. With `smoke` there is nothing to download:
# a tiny model of the same kind is made here, without training, in the layout that a download has.

# %%
published = Path(form.weights)
if form.smoke:
    published = Path("tiny_svd")
    if not published.exists():
        tiny = f"{SOURCE}/configs/finetune_svd.py:tiny"
        print("A tiny model without training stands in for the weights: all frames will be noise.")
        notebook.run("python -m vdm_jax.convert.blank --config {tiny} --output tiny", tiny=tiny)
        notebook.run(
            "python -m vdm_jax.convert --from tiny --to diffusers --output tiny_svd "
            "--dtype float16 --variant fp16"
        )
elif not published.exists():
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*/*.json", "*/*.fp16.safetensors"]
    published = Path("weights") / published.name
    snapshot_download(form.weights, local_dir=published, allow_patterns=wanted)

# %%
model = Path("models") / published.stem
if not model.exists():
    variant = " --variant fp16" if list(published.glob("unet/*.fp16.*")) else ""
    notebook.run(
        "python -m vdm_jax.convert --from {published} --output {model} --dtype bfloat16" + variant,
        published=published,
        model=model,
    )

# %% [markdown]
# ## The picture
#
# One of another shape than the video is cropped in the middle.

# %%
from PIL import Image

from vdm_jax.core import video
from vdm_jax.data.synthetic import MovingShapes

if form.picture:
    image = video.read_image(form.picture)
else:
    image = MovingShapes(num_frames=1, height=form.height, width=form.height)[3]["video"][0]
Image.fromarray(image)

# %% [markdown]
# ## The video
#
# The model stays loaded in this notebook, and compiled: the next videos of this size begin at once. It
# holds the accelerator from here on; before you run a command again, restart the session.

# %%
from vdm_jax.sample.studio import Order, Studio

shape = {name: getattr(form, name) for name in ("num_frames", "height", "width", "num_steps")}
order = Order(
    picture=image,
    seed=0,
    settings={
        **shape,
        "motion_bucket_id": form.motion_bucket_id,
        "max_guidance_scale": form.max_guidance_scale,
    },
)
studio = Studio(model, batch_size=1)
studio.check(order)
studio.load()
drawn = studio.draw([order], notebook.counted)
video.write(made / "video.mp4", drawn[0], 7)
notebook.show({"as set above": made / "video.mp4"})

# %% [markdown]
# ## Motion
#
# `motion_bucket_id` tells the model how much should move: it was trained with a measure of the optical
# flow of each clip. 127 is the usual.

# %%
from dataclasses import replace

clips = {}
for motion in (20, 127, 220):
    settings = {**order.settings, "motion_bucket_id": motion}
    drawn = studio.draw([replace(order, settings=settings)], notebook.counted)
    clips[f"motion_bucket_id {motion}"] = made / f"motion_{motion}.mp4"
    video.write(clips[f"motion_bucket_id {motion}"], drawn[0], 7)
notebook.show(clips)

# %% [markdown]
# ## Guidance
#
# Guidance says how closely the frames keep to the picture, from 1 in the first frame to
# `max_guidance_scale` in the last. Little of it drifts, much of it becomes harsh.

# %%
clips = {}
for scale in (1.5, 3.0, 5.0):
    settings = {**order.settings, "max_guidance_scale": scale}
    drawn = studio.draw([replace(order, settings=settings)], notebook.counted)
    clips[f"max_guidance_scale {scale}"] = made / f"guidance_{scale}.mp4"
    video.write(clips[f"max_guidance_scale {scale}"], drawn[0], 7)
notebook.show(clips)

# %% [markdown]
# ## What is left, and what comes next
#
# The videos are in `results/animate_a_picture`, or on Drive in `MyDrive/vdm_jax/animate_a_picture`.
#
# - [Fine-tune it on your clips](https://colab.research.google.com/github/vdm-jax/vdm_jax/blob/main/colab/finetune_svd.ipynb).
# - The same at the shell: `python -m vdm_jax.sample --model models/… --image a.png --output out.mp4`.
# - For others to use: `python -m vdm_jax.serve --model models/… --data served`.
