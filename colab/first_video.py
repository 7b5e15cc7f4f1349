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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vdm-jax/vdm_jax/blob/main/colab/first_video.ipynb)
#
# # First video
#
# Train a small video diffusion model from nothing and watch it learn: a caption and a first frame
# become a clip. Nothing is downloaded but the packages.
#
# **Minutes to expect.** On two CPU cores 5 to 8, measured: 4 min 36 s to 6 min 52 s of training, then the clip. On a
# TPU it was not measured yet. Installing adds one or two.

# %%
# @title Install
import os
import runpy

SOURCE = os.environ.get("VDM_JAX_SOURCE", "vdm_jax")
# !test -d {SOURCE} || git clone --quiet --depth 1 https://github.com/vdm-jax/vdm_jax {SOURCE}
runpy.run_path(f"{SOURCE}/colab/install.py")["install"]("notebook")

# %%
# @title Settings
steps = 510  # @param {type: "integer"}
caption = "a yellow triangle moves up right quickly"  # @param {type: "string"}
keep_on_drive = False  # @param {type: "boolean"}
smoke = False  # @param {type: "boolean"}

from vdm_jax.core import notebook

form = notebook.form(steps=steps, caption=caption, keep_on_drive=keep_on_drive, smoke=smoke)
if form.keep_on_drive:
    notebook.mount_drive()
made = notebook.results("first_video_smoke" if form.smoke else "first_video")

# %% [markdown]
# `smoke` shrinks everything to seconds, to try whether it runs: its frames are noise.
#
# ## Train
#
# The model sees clips of moving shapes with captions such as *a red circle moves left slowly*. Three
# times on the way it draws captions and first frames that it never sees in training; each preview
# appears below, the model's clip at the left and the true one at the right.
#
# Stopped, or cut off? Run the cell again: it goes on from the last checkpoint. To train further, raise
# `steps`.

# %%
config = f"{SOURCE}/configs/quickstart.py" + (":smoke" if form.smoke else "")
third = max(1, form.steps // 3)
notebook.run(
    "python -m vdm_jax.train --config {config} --workdir {workdir} --steps {steps} "
    "--preview-every {third} --save-every {third}",
    config=config,
    workdir=made / "run",
    steps=form.steps,
    third=third,
    previews=made / "run",
)

# %% [markdown]
# The table is an oracle's: it reads colour, shape and direction from the drawn clips and compares them
# with what the captions say. This is how the loss went, in training and on clips that are held out:

# %%
from IPython.display import Image

Image(filename=made / "run/loss.png")

# %% [markdown]
# ## A clip of your own caption
#
# The clip begins with a picture that the model never saw: a yellow triangle. What it does is up to
# `caption` in the settings. Directions are *right*, *left*, *up*, *down* and *up right*, *up left*,
# *down right*, *down left*; speeds are *slowly* and *quickly*.

# %%
notebook.run(
    "python -m vdm_jax.sample --model {run} --image {run}/samples/first_frame.png "
    "--prompt {caption} --output {clip}",
    run=made / "run",
    caption=form.caption,
    clip=made / "mine.mp4",
)
notebook.show({form.caption: made / "mine.mp4"})

# %% [markdown]
# ## What is left, and what comes next
#
# The folder `results/first_video` (on Drive, if you chose so: `MyDrive/vdm_jax/first_video`) has the
# clip, and in `run` the model, its samples by step, the loss curve and `report.html`, which holds all
# of it in one file.
#
# - [Evaluate](https://colab.research.google.com/github/vdm-jax/vdm_jax/blob/main/colab/evaluate.ipynb):
#   this model beside simple answers, with intervals.
# - [Animate a picture](https://colab.research.google.com/github/vdm-jax/vdm_jax/blob/main/colab/animate_a_picture.ipynb)
#   with a model of real size.
# - How the config is built: `configs/quickstart.py`, one page of Python.
