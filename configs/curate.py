"""From raw videos to training clips, by the steps of Stable Video Diffusion's curation.

    python -m vdm_jax.curate --input videos --output data/clips --config configs/curate.py

Paper: Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), section 3.1 and appendix C:
cuts at several frame rates, optical flow at two frames a second, the quarter with the least motion
dropped. What it asks of networks that nobody may pass on (CLIP, an aesthetic head, captioners) is
left out here. `small` keeps pictures of 96 pixels, for trials.
"""

from dataclasses import replace

from vdm_jax.curate.config import CurateConfig


def config() -> CurateConfig:
    return CurateConfig()


def small() -> CurateConfig:
    return replace(config(), size=96)
