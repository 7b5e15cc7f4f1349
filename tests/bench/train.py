"""A training step of our Stable Video Diffusion U-Net beside PyTorch's, in one run, one table.

    pip install -e ".[bench]" && python tests/bench/train.py [--quick] [--checkpointing] [--gpu]

A step is all that training does on the devices: the denoising loss of the network in the velocity
form, gradients, their norm clipped, AdamW, and the average of the weights. Theirs is diffusers'
U-Net with torch's fused AdamW. Two worker processes, one per library, take turns (A B A B ...)
from the same weights and on the same batch, in float32, on the same CPUs, with as many threads
and the same settings of glibc's allocator. Without options: the network at a quarter of its width
(96, 192, 320, 320) on 14 frames of 24x40 latents.

    --quick           two levels, 64 and 128 wide, on 8 frames of 16x16; two rounds
    --checkpointing   activations are not kept but computed again, layer by layer, by both
    --boost           both workers are favoured while they are timed (Linux, root)
    --gpu             the published width, 14 frames of 256x384 pixels, bfloat16 with weights in
                      float32, activations computed again, theirs by torch.compile. The workers
                      do not fit one card together: each turn is a process of its own

How to read the table: a ratio is our time in theirs, below 1 is faster; the bar is judged on the
better of both ratios. `differ` is how far the losses of the first steps lie apart, relatively:
both libraries make the same step. The peaks are those of whole processes while they run, without
what they held only to get ready; on a GPU those of its memory.
"""

import argparse
import tempfile
import time
from pathlib import Path

import svd
from side_by_side import HEADER, Calls, Row, Worker, add_options, measure, serve, verdict

SHAPES = {
    "quarter": svd.SHAPES["quarter"],
    "quick": svd.Shape((64, 128), (2, 4), 8, 16, 16),
    "full": svd.Shape((320, 640, 1280, 1280), (5, 10, 20, 20), 14, 32, 48),
}
BARS = {"quarter": 1.0, "quick": 1.0, "full": 0.8, "memory": 1.1, "differ": 1e-4}
RATE, DECAY, EPS, WEIGHT_DECAY, CLIP, AVERAGE = 1e-4, (0.9, 0.99), 1e-8, 0.01, 1.0, 0.9999
LAST = "{}BlockSpatioTemporal"  # what does not attend
FIRST = 3  # steps of which the losses are compared
TURN = 10  # steps of a turn on a GPU


def batch(shape):
    """x0, its noise, the picture's latents "1 t h w 4", the context; sigma is exp(4 C_NOISE)."""
    import numpy as np

    rng = np.random.default_rng(1)
    size = (1, *shape[2:], 4)
    names = ("x0", "noise", "picture")
    drawn = {name: rng.standard_normal(size, dtype=np.float32) for name in names}
    return drawn | {"context": rng.standard_normal((1, 1, 1024), dtype=np.float32)}


def jax_worker(args):
    """(description, calls): a call takes a step and returns its loss."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vdm_jax.train.step import update

    shape = SHAPES[args.shape]
    built = _built(_network(args, shape))
    state, frozen = built.init()
    step = update(built.model, _loss, _optimizer(), ema_decay=AVERAGE, accumulate=1)
    given = {name: jnp.asarray(array) for name, array in batch(shape).items()}
    key, begun = jax.random.key(0), time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(state, frozen, given, key)
    program = lowered.compile()
    compiling = time.perf_counter() - begun
    held = [state]
    del state

    def take():
        held[0], scalars = program(held[0], frozen, given, key)
        return np.asarray(scalars["loss"])

    description = {
        "library": f"vdm_jax (jax {jax.__version__})",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(held[0].params)),
        "first": [float(take()) for _ in range(FIRST)],
        "compiling": compiling,
        "flops": float((program.cost_analysis() or {}).get("flops", 0.0)),
    }
    calls: Calls = {"step": take, "memory": lambda: np.asarray(_device_peak(jax))}
    return description, calls


def _network(args, shape):
    """Ours with the weights that the other worker wrote."""
    from vdm_jax.models.svd_unet import SVDUNetConfig
    from vdm_jax.nn.remat import KEEP_ALL, RematLayers

    config = SVDUNetConfig(
        widths=shape.widths,
        heads=shape.heads,
        attention_levels=tuple(range(len(shape.widths) - 1)),
        remat=RematLayers() if args.checkpointing else KEEP_ALL,
        dtype="bfloat16" if args.gpu else "float32",
    )
    return svd.loaded(args.folder, config)


def _built(network):
    """The training state, as a run makes it, on one device."""
    import jax
    from flax import nnx

    from vdm_jax.adapters.trainable import EVERYTHING
    from vdm_jax.core.mesh import MeshConfig
    from vdm_jax.train import state

    graph, params = nnx.split(network, nnx.Param)
    shapes = jax.eval_shape(lambda params: params, params)
    mesh = MeshConfig().build_on(jax.devices()[:1])
    return state.build((graph, shapes), EVERYTHING, _optimizer(), mesh, lambda _: params)


def _optimizer():
    from vdm_jax.train.optim import AdamW

    b1, b2 = DECAY
    return AdamW(
        learning_rate=RATE, warmup_steps=0, b1=b1, b2=b2, eps=EPS, weight_decay=WEIGHT_DECAY,
        clip_norm=CLIP,
    ).build(1000)  # fmt: skip


def _loss(network, given, key):
    """(1 + s^2) / s^2 |D(x0 + s n) - x0|^2 in the velocity form, as Stable Video's task has it."""
    import jax.numpy as jnp

    from vdm_jax.diffusion.denoiser import denoiser
    from vdm_jax.diffusion.level import Level
    from vdm_jax.models.cond import Cond, Tokens
    from vdm_jax.tasks.stable_video import PROCESS

    del key  # nothing is drawn: both libraries are given the same noise
    x0 = given["x0"]
    sigma = jnp.full(x0.shape[:2], jnp.exp(4 * svd.C_NOISE))
    level = Level(jnp.ones_like(sigma), sigma)
    cond = Cond(
        tokens={"image": Tokens(given["context"], jnp.ones((1, 1), bool))},
        vec=jnp.broadcast_to(jnp.asarray(svd.VEC), (*x0.shape[:2], 3)),
        concat=given["picture"],
    )
    z = level.noised(x0, given["noise"])
    error = jnp.square(denoiser(network, PROCESS.precond)(z, level, cond) - x0)
    return (PROCESS.weight(level) * error.mean(axis=(2, 3, 4))).mean(), {}


def _device_peak(jax):
    told = jax.devices()[0].memory_stats() or {}
    return told.get("peak_bytes_in_use", 0)


def torch_worker(args):
    """As `jax_worker`; writes the weights for it."""
    import diffusers
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = "cuda" if args.gpu else "cpu"
    network = _theirs(args, SHAPES[args.shape]).to(device)
    take = _their_step(torch, network, SHAPES[args.shape], device, args)
    description = {
        "library": f"diffusers {diffusers.__version__} (torch {torch.__version__})",
        "parameters": sum(p.numel() for p in network.parameters()),
        "first": [float(take()) for _ in range(FIRST)],
    }
    peak = torch.cuda.max_memory_allocated if args.gpu else int
    return description, {"step": take, "memory": lambda: peak()}


def _theirs(args, shape):
    import diffusers
    import torch
    from safetensors.torch import load_file, save_file

    attending = len(shape.widths) - 1
    network = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=shape.widths,
        num_attention_heads=shape.heads,
        num_frames=shape.frames,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * attending + (LAST.format("Down"),),
        up_block_types=(LAST.format("Up"), *("CrossAttnUpBlockSpatioTemporal",) * attending),
    ).train()
    path = args.folder / "weights.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
    else:
        with torch.no_grad():
            for weight in network.parameters():
                if weight.ndim == 1:  # biases of 0 and gains of 1 would hide mistakes
                    weight += 0.1 * torch.randn_like(weight)
        save_file(network.state_dict(), path)
    if args.checkpointing:
        network.enable_gradient_checkpointing()
    return network


def _their_step(torch, network, shape, device, args):
    """A function that takes a step and returns its loss."""
    import math

    weights = list(network.parameters())
    average = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, RATE, DECAY, EPS, weight_decay=WEIGHT_DECAY, fused=True)
    given = {name: torch.from_numpy(array).to(device) for name, array in batch(shape).items()}
    x0, noise, picture = (
        given[name].permute(0, 1, 4, 2, 3).contiguous() for name in ("x0", "noise", "picture")
    )
    s = math.exp(4 * svd.C_NOISE)
    told = torch.tensor([svd.VEC], device=device)
    forward = torch.compile(network) if args.gpu else network

    def take():
        z = x0 + s * noise
        entering = torch.cat([z / math.hypot(s, 1), picture], dim=2)
        with torch.autocast("cuda", torch.bfloat16, enabled=args.gpu):
            level = torch.tensor(svd.C_NOISE, device=device)
            answer = forward(entering, level, given["context"], told, return_dict=False)[0]
        clean = z / (s * s + 1) - s / math.hypot(s, 1) * answer.float()
        loss = (1 + s * s) / (s * s) * ((clean - x0) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - AVERAGE)
        return loss.item()

    return take


WORKERS = {"ours": jax_worker, "theirs": torch_worker}


def together(shape: str, folder: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Both workers at once, in turns; returns times by library."""
    theirs = Worker("theirs", shape, folder, args)
    workers = {"ours": Worker("ours", shape, folder, args), "theirs": theirs}
    try:
        times = measure(workers, ["step"], args.rounds)["step"]
        tell(workers, {side: worker.ask("peak") for side, worker in workers.items()})
    finally:
        for worker in workers.values():
            worker.stop()
    return times


def by_turns(shape: str, folder: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """As `together`, but only one process at a time lives."""
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    workers, peaks = {}, {}
    for _ in range(args.rounds):
        for side in times:
            worker = workers[side] = Worker(side, shape, folder, args)
            times[side] += worker.ask("time", "step", TURN)
            worker.ask("save", "memory")
            peaks[side] = _saved(folder, side)
            worker.stop()
    tell(workers, peaks)
    return times


def _saved(folder, side):
    import numpy as np

    return float(np.load(folder / f"{side}.npy"))


def tell(workers: dict[str, Worker], peaks: dict[str, float]) -> None:
    """What is to be said beside the times."""
    ours, theirs = (workers[side].told for side in WORKERS)
    for told in (ours, theirs):
        print(f"  {told['library']}: {told['parameters'] / 1e6:.2f} M parameters")
    differ = max(abs(a / b - 1) for a, b in zip(ours["first"], theirs["first"], strict=True))
    print(f"  losses of {FIRST} steps differ by {differ:.1e} ({verdict(differ, BARS['differ'])})")
    print(f"  ours compiled in {ours['compiling']:.1f} s, {ours['flops'] / 1e9:.1f} GFLOP a step")
    ratio = peaks["ours"] / peaks["theirs"]
    print(
        f"  peak memory: ours {peaks['ours'] / 1e9:.2f} GB, theirs {peaks['theirs'] / 1e9:.2f} GB: "
        f"{ratio:.2f} ({verdict(ratio, BARS['memory'])})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in ("quick", "checkpointing", "gpu"):
        parser.add_argument(f"--{option}", action="store_true")
    add_options(parser)
    args = parser.parse_args()
    args.checkpointing |= args.gpu
    args.rounds = 2 if args.quick or args.gpu else args.rounds
    if args.worker:
        serve(args, WORKERS)
        return
    shape = "full" if args.gpu else "quick" if args.quick else "quarter"
    frames, height, width = SHAPES[shape][2:]
    print(f"{shape} width, {frames} frames of {height}x{width} latents, a training step")
    with tempfile.TemporaryDirectory(prefix="train_bench_") as folder:
        measured = (by_turns if args.gpu else together)(shape, Path(folder), args)
    print(*HEADER, sep="\n")
    print(Row("training step", measured["ours"], measured["theirs"], BARS[shape]))


if __name__ == "__main__":
    main()
