"""Every system that the project's sources name, and how far it is here.

The one place that says so: `SYSTEMS.md` is written from it (`python tests/docs/systems.py`), and
`test_systems.py` holds each line to the commands and the tests that it names.
"""

from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "SYSTEMS.md"


class Works(NamedTuple):
    """It can be run. command: how; none where one swaps parts in a config of one's own. shown:
    tests, as "file::test". lacks: what is not there yet. parts: the classes that do it, which the
    command's config has; as "module.Class".
    """

    command: str
    shown: tuple[str, ...]
    lacks: str = ""
    parts: tuple[str, ...] = ()


class Planned(NamedTuple):
    """It cannot be run. begins: the files that it will be built from."""

    begins: tuple[str, ...]


class Background(NamedTuple):
    """It will not be built. why: the reason."""

    why: str


class System(NamedTuple):
    """number: of the plan's list; none where it is known by its name alone."""

    number: str
    name: str
    state: Works | Planned | Background


QUICKSTART = "python -m vdm_jax.train --config configs/quickstart.py"
PYTHON = "python -m vdm_jax."
TRAIN = "python -m vdm_jax.train --config configs/"
SAMPLE = "python -m vdm_jax.sample --model runs/completion --task "

CORE = (
    System(
        "S1",
        "Diffusion models (DDPM) as a pipeline of parts",
        Works(
            QUICKSTART,
            (
                "tests/train/test_loop.py::test_a_run_leaves_all_that_the_readme_promises",
                "tests/diffusion/test_sampler.py::test_lands_on_the_gaussian_at_its_order",
            ),
            parts=(
                "data.synthetic.MovingShapes",
                "diffusion.process.Process",
            ),
        ),
    ),
    System(
        "S2",
        "Latent diffusion: U-Net with time and context, KL autoencoder",
        Works(
            TRAIN + "svd_stage1_image.py",
            (
                "tests/convert/test_stable_diffusion.py::",
                "tests/models/test_vae_parity.py::test_encodes_as_the_original",
                "tests/models/test_svd_unet.py::test_zeroing_a_skip_changes_the_output",
            ),
            parts=(
                "models.svd_unet.SVDUNetConfig",
                "models.vae.VAEConfig",
            ),
        ),
    ),
    System(
        "S3",
        "Video Diffusion Models (VDM): factorised U-Net, images beside videos",
        Works(
            TRAIN + "real_video.py",
            (
                "tests/models/test_vdm_unet.py::test_an_appended_image_changes_no_bit_of_the_video",
                "tests/models/test_vdm_unet.py::test_an_image_masked_network_is_the_framewise_one",
            ),
            parts=("models.vdm_unet.VDMUNetConfig",),
        ),
    ),
    System(
        "S4",
        "v-parameterisation and angular DDIM",
        Works(
            "",
            (
                "tests/diffusion/test_sampler.py::test_angular_ddim_is_ddim",
                "tests/diffusion/test_precond.py::test_forms_of_the_literature",
            ),
            parts=(
                "diffusion.precond.V",
                "diffusion.sampler.AngularDDIM",
            ),
        ),
    ),
    System(
        "S5",
        "Reconstruction guidance: extension, interpolation, super-resolution of any model",
        Works(
            "python -m vdm_jax.sample --task predict --model runs/real_video --video a.mp4 "
            "--given 4 --output next.mp4",
            (
                "tests/diffusion/test_guidance.py::"
                "test_reconstruction_equals_the_linear_closed_form",
                "tests/tasks/test_reconstruction_of_small.py::"
                "test_known_frames_and_a_small_video_at_once",
            ),
        ),
    ),
    System(
        "S6",
        "Align Your Latents (VideoLDM)",
        Works(
            TRAIN + "align_your_latents.py:video",
            (
                "tests/train/test_align_your_latents.py::"
                "test_layers_over_time_learn_and_those_of_pictures_stay_to_the_bit",
                "tests/adapters/test_inflate.py::"
                "test_at_first_a_video_is_its_pictures_whatever_is_told",
            ),
            "a trained chain; of the toy's flicker, 0.997 of the picture decoder's is left",
            parts=("adapters.trainable.Selected",),
        ),
    ),
    System(
        "S7",
        "Stable Video Diffusion, its three stages and its sampling",
        Works(
            TRAIN + "svd_stage3_image_to_video.py",
            (
                "tests/sample/test_pipeline.py::"
                "test_a_smaller_picture_of_another_shape_without_guidance",
                "tests/train/test_svd_parity.py::test_every_gradient_is_theirs",
                "tests/test_configs.py::test_the_loss_is_a_number",
            ),
            parts=("tasks.stable_video.StableVideo",),
        ),
    ),
    System(
        "S8",
        "Latent Video Diffusion (LVDM): autoencoder of clips, hierarchical long videos",
        Works(
            TRAIN + "lvdm_autoencoder.py",
            (
                "tests/tasks/test_long_video.py::test_the_counts_of_lvdm",
                "tests/models/test_video_vae.py::test_the_papers_long_videos_fit",
            ),
            parts=("models.video_vae.VideoVAEConfig",),
        ),
    ),
    System(
        "S9",
        "VideoCrafter1",
        Planned(("vdm_jax/models/svd_unet.py", "vdm_jax/conditioning/image.py")),
    ),
    System(
        "S10",
        "I2VGen-XL, base and refinement",
        Planned(("vdm_jax/models/svd_unet.py", "vdm_jax/sample/cascade.py")),
    ),
    System(
        "S11",
        "Latent Flow Diffusion (LFDM)",
        Planned(("vdm_jax/metrics/motion.py", "vdm_jax/models/vdm_unet.py")),
    ),
    System(
        "S12",
        "Latte, Open-Sora (STDiT): transformers over patches",
        Planned(("vdm_jax/nn/transformer.py", "vdm_jax/data/buckets.py")),
    ),
    System(
        "S22",
        "Image to video, as an application",
        Works(
            "python -m vdm_jax.sample --model runs/quickstart --image a.png --output out.mp4",
            (
                "tests/sample/test_pictures.py::test_a_video_of_each_picture",
                "tests/serve/test_page.py::test_from_the_key_to_the_last_video",
            ),
        ),
    ),
    System(
        "S31",
        "Text conditioning: CLIP, sentence embedders, words of a toy",
        Works(
            PYTHON + "convert.minilm --output models/minilm",
            (
                "tests/models/test_clip.py::test_the_tokens_are_those_of_transformers",
                "tests/models/test_bert.py::test_the_tokens_are_those_of_transformers",
            ),
        ),
    ),
)

TIME = (
    System(
        "S13",
        "FreeNoise",
        Works(
            SAMPLE + "extend --video red.mp4 --num-frames 64 --plan freenoise --output long.mp4",
            (
                "tests/diffusion/test_noise.py::test_one_window_is_plain_noise_to_the_bit",
                "tests/nn/test_patterns.py::test_work_grows_with_frames_and_not_with_their_square",
            ),
            "linear cost on Stable Video Diffusion's U-Net (1.68 of it at 64 frames)",
        ),
    ),
    System(
        "S14",
        "Plans for long videos: autoregressive, hierarchical, reuse",
        Works(
            SAMPLE + "extend --video red.mp4 --num-frames 64 --plan ar hierarchical reuse "
            "--output long.mp4",
            (
                "tests/sample/test_extending.py::"
                "test_the_command_extends_a_video_by_several_plans_and_compares_them",
            ),
        ),
    ),
    System(
        "S15",
        "Frame interpolation",
        Works(
            SAMPLE + "interpolate --video red.mp4 --factor 3 --output smooth.mp4",
            ("tests/tasks/test_long_video.py::test_interpolation_keeps_what_is_given",),
            "a trained toy that beats a linear blend by 3 dB (it reaches -0.8 and 0.0)",
        ),
    ),
    System(
        "S16",
        "ControlVideo",
        Planned(("vdm_jax/nn/patterns.py", "vdm_jax/diffusion/sampler.py")),
    ),
    System(
        "S17",
        "One big picture: attention over all frames; TemporalKit",
        Works(
            "",
            (
                "tests/nn/test_patterns.py::test_full_attention_is_that_of_one_big_picture",
                "tests/models/test_patterns.py::test_trained_weights_run_with_any_pattern",
            ),
            "TemporalKit's plates and its propagation by flow",
            parts=("nn.patterns.Full",),
        ),
    ),
    System(
        "S18",
        "Video to video",
        Works(
            SAMPLE + "edit --video red.mp4 --strength 0.6 --output blue.mp4",
            ("tests/sample/test_editing.py::test_the_more_noise_the_less_is_kept",),
            "every method but noise and inversion",
        ),
    ),
    System("S19", "StableVideo (layered atlases)", Planned(("vdm_jax/core/video.py",))),
    System("S20", "CoDeF (content deformation fields)", Planned(("vdm_jax/core/video.py",))),
    System(
        "S21",
        "Walks between prompts and seeds, in time with a sound",
        Works(
            SAMPLE + 'walk --prompts "a red circle" "a blue square" --output walk',
            (
                "tests/sample/test_walk.py::test_the_points_of_a_walk_are_single_drawings",
                "tests/sample/test_timing.py::test_a_click_moves_the_walk_most",
            ),
        ),
    ),
)

CONTROL = (
    System("S23", "VideoComposer", Planned(("vdm_jax/models/cond.py",))),
    System("S24", "VideoBooth", Planned(("vdm_jax/models/cond.py", "vdm_jax/nn/patterns.py"))),
    System("S25", "AnimateDiff, motion LoRA, SparseCtrl", Planned(("vdm_jax/adapters/lora.py",))),
    System("S26", "ControlNet and T2I-Adapter for videos", Planned(("vdm_jax/models/cond.py",))),
    System("S27", "Follow Your Pose", Planned(("vdm_jax/nn/patterns.py",))),
    System("S28", "Follow Your Click", Planned(("vdm_jax/conditioning/known.py",))),
    System(
        "S29",
        "MagicTime",
        Planned(("vdm_jax/data/layouts.py", "vdm_jax/adapters/lora.py")),
    ),
    System("S30", "Flamingo's video prompts", Planned(("vdm_jax/nn/attention.py",))),
    System(
        "S32",
        "Inversion into the prior",
        Works(
            SAMPLE + 'edit --video red.mp4 --original "a red circle bounces" --output same.mp4',
            (
                "tests/sample/test_editing.py::test_inversion_and_drawing_give_the_video_back",
                "tests/diffusion/test_sampler.py::test_inversion_returns_at_first_order",
            ),
            "GANs: nothing of theirs is inverted",
        ),
    ),
    System("S33", "Multi-view (orbits)", Planned(("vdm_jax/conditioning/micro.py",))),
)

RESTORE = (
    System(
        "S34", "Restoration of old film, as a pipeline", Planned(("vdm_jax/sample/cascade.py",))
    ),
    System("S35", "Synthesis of degradations", Planned(("vdm_jax/data/effects.py",))),
    System("", "StableSR", Planned(("vdm_jax/models/cond.py", "vdm_jax/diffusion/tiles.py"))),
    System("", "DiffBIR", Planned(("vdm_jax/models/cond.py", "vdm_jax/diffusion/guidance.py"))),
    System("", "PASD", Planned(("vdm_jax/models/cond.py",))),
    System("", "SeeSR", Planned(("vdm_jax/models/cond.py",))),
    System("", "CoSeR", Planned(("vdm_jax/models/cond.py",))),
    System("", "RTN and masks of scratches", Planned(("vdm_jax/metrics/motion.py",))),
    System(
        "S36",
        "Fusion into the decoder, and the other open questions",
        Planned(("vdm_jax/models/vae.py",)),
    ),
    System(
        "S37",
        "pix2pixHD's discriminator",
        Works(
            TRAIN + "vae_image.py",
            (
                "tests/models/test_patch_discriminator.py::"
                "test_it_equals_the_original_but_for_the_norm",
            ),
            "the generator, which is background",
            parts=("models.patch_discriminator.PatchDiscriminatorConfig",),
        ),
    ),
    System(
        "S38",
        "LoRA for a domain",
        Works(
            TRAIN + "finetune_svd.py:lora",
            (
                "tests/adapters/test_trainable.py::"
                "test_the_published_network_is_adapted_by_less_than_two_percent",
                "tests/train/test_finetune.py::test_the_lora_file_is_what_peft_loads",
            ),
            "a LoRA trained on old films",
            parts=("adapters.lora.LoRA",),
        ),
    ),
)

PRACTICE = (
    System(
        "S39",
        "Fine-tuning in five steps",
        Works(
            TRAIN + "finetune_svd.py:temporal",
            (
                "tests/train/test_finetune.py::"
                "test_a_run_samples_with_the_weights_that_it_publishes",
            ),
            parts=("tasks.stable_video.StableVideo",),
        ),
    ),
    System(
        "S40",
        "Less memory and time",
        Works(
            TRAIN + "finetune_svd.py:lora --compile-only v5e:1x1",
            (
                "tests/train/test_ahead.py::test_the_table_says_what_fits_and_what_bounds_the_step",
                "tests/models/test_svd_unet.py::test_remat_covers_every_block_or_every_layer",
            ),
            parts=("nn.remat.RematLayers",),
        ),
    ),
    System("S41", "Picture quality from pictures", Planned(("vdm_jax/adapters/trainable.py",))),
    System(
        "S42",
        "Pick-a-Pic and Diffusion-DPO",
        Planned(("vdm_jax/data/pairs.py", "vdm_jax/diffusion/loss.py")),
    ),
    System(
        "S43",
        "UCF-101 and FVD, KVD, content-debiased FVD",
        Works(
            "python -m vdm_jax.evaluate --model runs/real_video --real data/ucf "
            "--protocol svd-zeroshot",
            (
                "tests/evaluate/test_protocol.py::test_named_protocols_are_those_of_the_papers",
                "tests/models/test_i3d.py::test_i3d_equals_its_definition",
            ),
        ),
    ),
    System(
        "S44",
        "PSNR, SSIM, LPIPS, flicker, warping error, CLIP, FID, Inception score",
        Works(
            "python -m vdm_jax.evaluate --model runs/real_video --protocol.metrics psnr ssim",
            (
                "tests/metrics/test_frames.py::test_both_equal_scikit_images",
                "tests/metrics/test_motion.py::test_what_only_moves_has_no_warping_error",
            ),
            "the dimensions of VBench",
        ),
    ),
    System(
        "S45",
        "Human preference",
        Works(
            "python -m vdm_jax.evaluate prefer --videos ours=a other=b --output studies/first",
            (
                "tests/metrics/test_preference.py::"
                "test_intervals_hold_the_truth_in_95_of_100_studies",
            ),
        ),
    ),
    System(
        "S46",
        "Curation",
        Works(
            "python -m vdm_jax.curate --input videos --output data/clips",
            ("tests/curate/test_curation.py::test_what_was_planted_is_found",),
        ),
    ),
    System(
        "S47",
        "Data sets: Sky Timelapse, UCF-101, WebVid, ChronoMagic, Pick-a-Pic",
        Works(
            "",
            (
                "tests/data/test_layouts.py::test_ucf101",
                "tests/data/test_layouts.py::test_sky_timelapse_in_the_order_people_count",
                "tests/data/test_pairs.py::test_chosen_rejected_and_no_ties",
            ),
            "training on pairs; LAION-Pose and WebVid-Motion",
            parts=(
                "data.layouts.UCF101",
                "data.layouts.SkyTimelapse",
                "data.layouts.WebVid",
                "data.layouts.ChronoMagic",
                "data.pairs.PickAPic",
            ),
        ),
    ),
    System(
        "S49",
        "An API of OpenAI's form, with keys",
        Works(
            "python -m vdm_jax.serve --model runs/quickstart --data served",
            (
                "tests/serve/test_openai.py::",
                "tests/serve/test_isolation.py::",
            ),
        ),
    ),
    System("S50", "Likelihood by the probability flow", Planned(("vdm_jax/diffusion/sampler.py",))),
)

BACKGROUND = (
    System(
        "S48",
        "Crawling videos: LVD, LVD-F, LAION-Pose",
        Background("users bring their videos; `curate` does the rest"),
    ),
    System(
        "",
        "GANs of videos",
        Background("superseded; the adversarial loss of the autoencoders is kept (S37)"),
    ),
    System("", "Normalising flows", Background("superseded; S50 will answer likelihood")),
    System("", "Autoregression of pixels, Image GPT", Background("too long; see S14 for clips")),
    *(
        System("", name, Background("closed; S22 and S49 are the analogue"))
        for name in (
            "DALL-E 3",
            "Midjourney",
            "Gen-2, Gen-3",
            "Sora",
            "Veo 2",
            "Pika 2.0",
            "Kling",
            "MiniMax",
            "Movie Gen",
        )
    ),
    *(
        System("", name, Background("diffusers and MaxDiffusion run it; no port is planned"))
        for name in ("CogVideoX", "Mochi 1", "Allegro", "LTX-Video", "HunyuanVideo")
    ),
    System("", "ModelScopeT2V", Background("the U-Net of S10 without its ports")),
)

SYSTEMS = {
    "Generators": CORE,
    "Long videos, and coherence in time": TIME,
    "Conditions and control": CONTROL,
    "Restoration": RESTORE,
    "Training, data, evaluation, service": PRACTICE,
    "Background, not to be built": BACKGROUND,
}

HEAD = """\
# Every system, and how far it is

What the papers and programs that this project grew from can do, and what of it runs here. *Works*:
the command runs it, and the tests named hold it; what is still missing stands beside it. *Planned*:
not there yet; the files are what it will be built from. *Background*: will not be built. Written by
`python tests/docs/systems.py`, held to the truth by `tests/docs/test_systems.py`.
"""


def page() -> str:
    """SYSTEMS.md."""
    every = [system for systems in SYSTEMS.values() for system in systems]
    kinds = [type(system.state) for system in every]
    works, planned = kinds.count(Works), kinds.count(Planned)
    parts = [HEAD, f"Of {len(every)}, {works} work and {planned} are planned.\n"]
    for title, systems in SYSTEMS.items():
        parts += [f"## {title}\n", "| system | state | how |", "|---|---|---|"]
        parts += [_row(system) for system in systems] + [""]
    return "\n".join(parts)


def _row(system: System) -> str:
    state, name = system.state, system.name
    number = f"{system.number} " if system.number else ""
    match state:
        case Works():
            tests = ", ".join(f"[{Path(path).stem}]({path})" for path in _files(state.shown))
            lacks = f"; **lacks** {state.lacks}" if state.lacks else ""
            how = f"`{state.command}`" if state.command else _swapped(state.parts)
            said = f"{how} ({tests}){lacks}"
        case Planned():
            said = "from " + ", ".join(f"[{Path(path).stem}]({path})" for path in state.begins)
        case Background():
            said = state.why
    return f"| {number}{name} | {type(state).__name__.lower()} | {said} |"


def _swapped(parts: tuple[str, ...]) -> str:
    places = [part.rpartition(".") for part in parts]
    links = [f"[{name}](vdm_jax/{module.replace('.', '/')}.py)" for module, _, name in places]
    return f"in a config of one's own: {', '.join(links)}"


def _files(shown: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(each.partition("::")[0] for each in shown))


if __name__ == "__main__":
    PAGE.write_text(page())
