"""Our VDM U-Net beside the public PyTorch one (video-diffusion-pytorch), in one run, one table.

    pip install -e ".[bench]" && python tests/bench/bench_vdm_unet.py

Two worker processes, one per library, take turns (A B A B ...) on the same input: 4 videos of
16x32x32 pixels in float32; a forward pass, and a training step (mean squared error, gradients,
Adam). Both get the same allocator settings and the same CPUs, or the same GPU. FLOPs are each
library's own count (XLA's cost analysis of the program, torch's FlopCounterMode, which counts
convolutions and matrix products); the peak is the faster of the two libraries' matrix products.

The two networks have the same width, multipliers, residual blocks per level (up stages that
narrow to the next finer level's width), heads, and temporal attention at every level: 33.8 and
35.7 million parameters. The peer attends over space by linear attention at every level (its
default) and by softmax in the middle; ours by softmax at all levels but the finest (the paper's
placement). The peer has a wider first convolution, temporal attention after it, 4x4 convolutions
between levels where ours are 2x2 and 3x3, and one more residual block at the end: a third more
operations, as the table shows. Compare the time for the same parameters with that in mind.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from unittest import mock

ALLOCATOR = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=34359738368:"
ALLOCATOR += "glibc.malloc.top_pad=268435456"
KINDS = ("forward", "step")
MATRIX = 4096


def jax_worker(args):
    """Yield (description, {name: zero-argument call that runs to the end})."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from vdm_jax.models.cond import Cond
    from vdm_jax.models.vdm_unet import VDMUNetConfig
    from vdm_jax.nn import attention, conv

    levels = len(args.multipliers)
    config = VDMUNetConfig(
        channels=args.channels,
        multipliers=tuple(args.multipliers),
        space_attention=tuple(range(1, levels)),
        time_attention=tuple(range(levels)),
        heads=args.heads,
        head_size=args.head_size,
    )
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        model = config.build(rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    adam = optax.adam(1e-4)
    moments = adam.init(state)
    kz, kt = jax.random.split(jax.random.key(0))
    z = jax.random.normal(kz, (args.batch, args.frames, args.size, args.size, 3))
    target = jax.random.normal(kt, z.shape)
    c_noise = jnp.zeros(z.shape[:2])

    def forward(state, z):
        return nnx.merge(graph, state)(z, c_noise, Cond())

    def step(state, moments, z, target):
        def loss(state):
            return ((forward(state, z) - target) ** 2).mean()

        value, gradients = jax.value_and_grad(loss)(state)
        updates, moments = adam.update(gradients, moments)
        return optax.apply_updates(state, updates), moments, value

    def lower():
        jax.clear_caches()
        yield jax.jit(lambda *a: forward(*a)).lower(state, z)
        yield jax.jit(lambda *a: step(*a), donate_argnums=(0, 1)).lower(state, moments, z, target)

    # XLA counts the body of a loop once: count the same network in its forms without loops
    tables = (attention.FORMS, attention.TILING, conv.FORMS)
    with contextlib.ExitStack() as counting:
        for forms in tables:
            counting.enter_context(mock.patch.dict(forms, cpu=forms["gpu"]))
        counts = [low.cost_analysis()["flops"] for low in lower()]
    flops = dict(zip(KINDS, counts, strict=True))
    begun = time.perf_counter()
    run_forward, run_step = (low.compile() for low in lower())
    compiling = time.perf_counter() - begun
    held = [state, moments]

    def call_forward():
        jax.block_until_ready(run_forward(held[0], z))

    def call_step():
        held[0], held[1], value = run_step(*held, z, target)
        jax.block_until_ready(value)

    square = jax.random.normal(kz, (MATRIX, MATRIX))
    product = jax.jit(jnp.matmul)
    description = {
        "library": f"vdm_jax (jax {jax.__version__})",
        "device": str(jax.devices()[0]),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state)),
        "flops": flops,
        "compiling": compiling,
    }
    calls = {"forward": call_forward, "step": call_step}
    calls["matmul"] = lambda: jax.block_until_ready(product(square, square))
    return description, calls


def torch_worker(args):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    _declare_torchvision(torch)
    from video_diffusion_pytorch import Unet3D

    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = Unet3D(
        dim=args.channels,
        dim_mults=tuple(args.multipliers),
        attn_heads=args.heads,
        attn_dim_head=args.head_size,
    ).to(device)
    adam = torch.optim.Adam(model.parameters(), lr=1e-4)
    shape = (args.batch, 3, args.frames, args.size, args.size)
    z, target = torch.randn(shape, device=device), torch.randn(shape, device=device)
    c_noise = torch.zeros(args.batch, device=device)

    def finish():
        if device == "cuda":
            torch.cuda.synchronize()

    def forward():
        with torch.no_grad():
            model(z, c_noise)
        finish()

    def step():
        adam.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(model(z, c_noise), target).backward()
        adam.step()
        finish()

    calls, flops = {"forward": forward, "step": step}, {}
    for kind, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        flops[kind] = counter.get_total_flops()
    square = torch.randn(MATRIX, MATRIX, device=device)

    def matmul():
        square @ square
        finish()

    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    description = {
        "library": f"video-diffusion-pytorch (torch {torch.__version__})",
        "device": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": flops,
        "compiling": 0.0,
    }
    return description, calls | {"matmul": matmul}


def _declare_torchvision(torch):
    """Let `import torchvision` pass where its compiled operators were made for another torch.

    The peer's trainer imports it; its network uses nothing of it. The import fails only for want
    of a declaration of these two operators.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        torch.library.define("torchvision::nms", "(Tensor a, Tensor b, float c) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor a, Tensor b, float c) -> Tensor")


WORKERS = {"jax": jax_worker, "torch": torch_worker}


def work(args):
    """Serve one library: a line in names a call and how often, a line out tells its times."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    description, calls = WORKERS[args.worker](args)
    print(json.dumps(description), file=answers, flush=True)
    for line in sys.stdin:
        kind, count = line.split()
        times = []
        for _ in range(int(count)):
            begun = time.perf_counter(), time.process_time()
            calls[kind]()
            times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
        print(json.dumps(times), file=answers, flush=True)


def start(name, args):
    environment = os.environ | {"GLIBC_TUNABLES": ALLOCATOR, "OMP_NUM_THREADS": str(args.threads)}
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", name]
    cpus = sorted(os.sched_getaffinity(0))[: args.threads]
    worker = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    return worker, json.loads(worker.stdout.readline())


def ask(worker, kind, count=1):
    print(kind, count, file=worker.stdin, flush=True)
    return json.loads(worker.stdout.readline())


def measure(workers, rounds):
    """times[kind][name]: (wall, CPU) seconds of every call, the libraries taking turns.

    The first round warms up and is not counted.
    """
    times = {kind: {name: [] for name in workers} for kind in (*KINDS, "matmul")}
    for turn in range(rounds + 1):
        for kind, by_name in times.items():
            for name, worker in workers.items():
                took = ask(worker, kind)
                by_name[name] += took if turn else []
                time.sleep(0.05)  # let the other's threads stop spinning
    return times


def table(described, times):
    """The rows to print."""
    fastest = min(min(took)[0] for took in times["matmul"].values())
    peak = 2 * MATRIX**3 / fastest
    yield f"measured matmul peak: {peak / 1e9:.0f} GFLOP/s (float32, {MATRIX} squared)"
    for name, told in described.items():
        yield (
            f"{name}: {told['library']} on {told['device']}, "
            f"{told['parameters'] / 1e6:.2f} M parameters, compiled in {told['compiling']:.0f} s"
        )
    yield (
        "| pass | library | median s | min s | ratio of medians | ratio of minima "
        "| min CPU s | ratio of CPU s | GFLOP | of peak (median) | of peak (min) |"
    )
    yield "|---" * 11 + "|"
    for kind in KINDS:
        took = {name: list(zip(*pairs, strict=True)) for name, pairs in times[kind].items()}
        medians = {name: statistics.median(wall) for name, (wall, _) in took.items()}
        minima = {name: min(wall) for name, (wall, _) in took.items()}
        cpu = {name: min(busy) for name, (_, busy) in took.items()}
        for name, told in described.items():
            flops = told["flops"][kind]
            yield (
                f"| {kind} | {name} | {medians[name]:.3f} | {minima[name]:.3f} "
                f"| {medians[name] / medians['torch']:.2f} | {minima[name] / minima['torch']:.2f} "
                f"| {cpu[name]:.2f} | {cpu[name] / cpu['torch']:.2f} "
                f"| {flops / 1e9:.1f} | {flops / medians[name] / peak:.0%} "
                f"| {flops / minima[name] / peak:.0%} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--multipliers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-size", type=int, default=32)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    started = {name: start(name, args) for name in WORKERS}
    workers = {name: worker for name, (worker, _) in started.items()}
    try:
        times = measure(workers, args.rounds)
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    print("\n".join(table({name: told for name, (_, told) in started.items()}, times)))


if __name__ == "__main__":
    main()
