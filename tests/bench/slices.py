"""The smallest TPU slices on which each recipe fits, as a table in Markdown.

    python tests/bench/slices.py [--results DIRECTORY] [RECIPE ...]

Asks `python -m vdm_jax.train --compile-only` for one slice after another, smallest first, until one
holds the step; needs libtpu (`pip install -e ".[tpu]"`) and no hardware. What was compiled stays in
the directory, so that a second start goes on where the first ended. A compilation takes 3 to 15
minutes of a core.
"""

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
AT_576 = ("--task.video.height", "576", "--task.video.width", "1024")
FRAMES_25 = ("--task.video.num-frames", "25")


@dataclass(frozen=True)
class Recipe:
    """A config, the samples that a chip takes at once, and the smallest slices worth asking."""

    label: str
    config: str
    samples: int
    first: dict[str, int]  # chips, by generation
    options: tuple[str, ...] = ()


ONE = {"v5e": 1, "v6e": 1, "v5p": 4}
WHOLE = {"v5e": 4, "v6e": 4, "v5p": 4}  # 30 GB of weights, moments, average and gradients
LARGE = {"v5e": 8, "v6e": 4, "v5p": 4}
RECIPES = {
    "lora": Recipe("SVD, LoRA, 14x320x576", "finetune_svd.py:lora", 1, ONE),
    "latent": Recipe("a small model, whole, 8x96x160", "latent_video.py", 32, ONE),
    "whole": Recipe("SVD, whole, 14x320x576", "finetune_svd.py", 1, WHOLE),
    "whole-xt": Recipe(
        "SVD-XT, whole, 25x576x1024", "finetune_svd.py", 1, LARGE, (*FRAMES_25, *AT_576)
    ),
    "temporal": Recipe("SVD, layers over time, 14x320x576", "finetune_svd.py:temporal", 1, ONE),
    "stage2": Recipe("stage II, 14x256x384", "svd_stage2_video.py", 1, WHOLE),
    "larger": Recipe("stage II, 14x320x576", "svd_stage2_video.py:larger", 1, WHOLE),
    "camera": Recipe("camera LoRA, 14x320x576", "svd_camera_lora.py", 1, ONE),
    "stage1": Recipe("stage I, 8 pictures of 256x384", "svd_stage1_image.py", 8, WHOLE),
    "text": Recipe("stage III, text, 14x576x1024", "svd_stage3_text_to_video.py", 1, LARGE),
    "image": Recipe("stage III, image, 14x576x1024", "svd_stage3_image_to_video.py", 1, LARGE),
    "between": Recipe("interpolation, 5x576x1024", "svd_interpolation.py", 1, WHOLE),
    "vae": Recipe("autoencoder, 32 of 96x160", "vae_image.py", 32, ONE),
    "decoder": Recipe(
        "temporal decoder, 8 of 8x96x160", "vae_temporal_decoder.py", 8, ONE
    ),
}  # fmt: skip
SLICES = {
    "v5e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8"},
    "v6e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8"},
    "v5p": {4: "2x2x1", 8: "2x2x2", 16: "2x2x4"},
}
NEEDED = re.compile(r"in all +([\d.]+)  of ([\d.]+): (fits|does NOT fit)")
AT_BEST = re.compile(r"at best ([\d.e+]+) ms a step")


def attempts(recipe: Recipe, generation: str):
    """(slice, chips, chips that share the frames of one clip), smallest slice first."""
    for chips, shape in SLICES[generation].items():
        for context in (1, 2, 4):
            frames_divide = context == 1 or (recipe.samples == 1 and chips >= 4 * context)
            if chips >= recipe.first[generation] and frames_divide:
                yield f"{generation}:{shape}", chips, context


def told(recipe: Recipe, where: str, chips: int, context: int, results: Path) -> str:
    """What the command says; kept in a file."""
    name = f"{recipe.config}{''.join(recipe.options)}@{where}-{context}".replace("/", "_")
    kept = results / f"{name}.txt"
    if kept.exists():
        return kept.read_text()
    groups = chips // context
    command = [sys.executable, "-m", "vdm_jax.train", "--config", f"configs/{recipe.config}"]
    command += ["--compile-only", where, *recipe.options]
    command += ["--mesh.data", "1", "--mesh.fsdp", str(groups), "--mesh.context", str(context)]
    command += ["--batch-size", str(groups * recipe.samples)]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    if not NEEDED.search(run.stdout):
        raise SystemExit(f"{where}: {run.stderr[-3000:]}")
    kept.write_text(run.stdout)
    return run.stdout


def cell(recipe: Recipe, generation: str, results: Path) -> str:
    for where, chips, context in attempts(recipe, generation):
        said = told(recipe, where, chips, context, results)
        needed, memory, verdict = NEEDED.search(said).groups()
        print(f"{recipe.label}: {where}, {needed} of {memory} GB, {verdict}", file=sys.stderr)
        if verdict == "fits":
            seconds = float(AT_BEST.search(said)[1]) / 1e3
            shared = f", frames over {context}" if context > 1 else ""
            return f"{where.partition(':')[2]}{shared}: {needed} GB, {seconds:.2f} s"
    return "none tried"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", choices=[[], *RECIPES], default=[])
    parser.add_argument("--results", type=Path, default=Path("runs/slices"))
    parser.add_argument("--generations", default="v5e,v6e,v5p")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    generations = options.generations.split(",")
    print(f"| recipe | {' | '.join(generations)} |")
    print(f"|---|{'---|' * len(generations)}", flush=True)
    for recipe in [RECIPES[name] for name in options.recipes or RECIPES]:
        row = [cell(recipe, each, options.results) for each in generations]
        print(f"| {recipe.label} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
