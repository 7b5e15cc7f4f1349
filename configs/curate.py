"""From raw videos to training clips, by the steps of Stable Video Diffusion's curation.

    python -m vdm_jax.curate --input videos --output data/clips --config configs/curate.py

Paper: Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), section 3.1 and appendix C:
cuts at several frame rates, optical flow at two frames a second, the quarter with the least motion
dropped.

`learnt` also asks CLIP and an aesthetic head, which you bring (OpenAI's ViT-L/14 and the predictor
of LAION that was fitted to it): the half that fits its caption least and the quarter with the
lowest aesthetic score go, as in appendix C. So a clip without a caption goes too.

    python -m vdm_jax.convert.whole_clip --from clip-vit-large-patch14 --output models/clip
    python -m vdm_jax.convert.aesthetic --from sac+logos+ava1-l14-linearMSE.pth \\
        --output models/aesthetic
    python -m vdm_jax.curate --input videos --output data/clips --config configs/curate.py:learnt \\
        --weights clip=models/clip aesthetic=models/aesthetic

On a GPU, which workers share, add `--stages.4.gpus 0.2 --stages.5.gpus 0.2 --workers 4`. `small`
keeps pictures of 96 pixels, for trials.
"""

from dataclasses import replace

from vdm_jax.curate.aesthetic import Aesthetic
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.rules import Rule
from vdm_jax.curate.similarity import Similarity


def config() -> CurateConfig:
    return CurateConfig()


def small() -> CurateConfig:
    return replace(config(), size=96)


def learnt() -> CurateConfig:
    plain = config()
    return replace(
        plain,
        stages=(*plain.stages, Similarity(), Aesthetic()),
        rules=(
            *plain.rules,
            Rule("aesthetic", "aesthetic >= percentile(aesthetic, 25)"),
            Rule("caption", "clip_similarity >= percentile(clip_similarity, 50)"),
        ),
    )
