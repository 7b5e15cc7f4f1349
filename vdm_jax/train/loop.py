"""The training loop: data, state, step; once in a while a report, a preview, a checkpoint."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.core import mesh as meshes
from vdm_jax.core.checkpoint import Checkpoints
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.loader import Loader, Source, stack
from vdm_jax.train import begin, fits, rundir, track
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.measure import Profile
from vdm_jax.train.observer import Observer
from vdm_jax.train.state import Built, TrainState
from vdm_jax.train.stop import Stopped, stop_sign
from vdm_jax.train.traced import Program, check_batch, flops, traced_step


def train(config: TrainConfig, workdir: Path, profile: Profile | None = None) -> bool:
    """Run `config` in `workdir` to its last step, from wherever an earlier call left off.

    profile: steps of which a trace is kept in `workdir`.

    Returns whether it was finished; False: SIGTERM or Ctrl-C stopped it, and its state is saved.
    Raises Refusal, before anything is compiled, when config, data, directory or checkpoints do not
    fit together, and later when too many steps in a row were not finite.
    """
    rundir.check(workdir, config)
    track.check(config.trackers)
    mesh = config.mesh.build()
    sources = open_sources(config, mesh)
    built = begin.build(config, mesh)
    fits.check(config, built, mesh)
    with Checkpoints(workdir / "checkpoints", keep=config.keep) as checkpoints:
        checkpoints.check_room((built.abstract, built.frozen))
        loader = open_loader(config, sources[0])
        restored = checkpoints.restore(built.abstract)
        if restored is not None:
            loader.restore(restored.meta["data"])
            if restored.step > config.steps:
                raise Refusal(
                    f"{workdir} was trained for {restored.step} steps already; --steps "
                    f"{config.steps} is less"
                )
        rundir.prepare(workdir, config)
        step = 0 if restored is None else restored.step
        if profile is not None:
            profile.check(step, config.steps)
        before = None if restored is None else restored.state
        with (
            stop_sign() as stop,
            Observer(config, workdir, built, mesh, sources, stop, before, profile) as observer,
        ):
            if restored is not None:
                observer.say(f"going on from step {step} of {config.steps} in {workdir}")
            make_state = partial(rundir.weights, workdir, config, built, before)
            make_step = partial(compiled_step, config, built, sources[0], mesh)
            return _run(
                config, mesh, step, make_state, make_step, loader, checkpoints, observer, stop
            )


def _run(
    config: TrainConfig,
    mesh: Mesh,
    step: int,
    make_state: Callable[[], tuple[TrainState, nnx.State]],
    make_step: Callable[[], Program],
    loader: Loader,
    checkpoints: Checkpoints,
    observer: Observer,
    stop: threading.Event,
) -> bool:
    state, saved, scalars = None, step, None
    key = jax.random.key(config.seed)
    try:
        if step == config.steps:
            return finished(config, step, *make_state(), observer)
        (state, frozen), train_step = observer.compile(lambda: (make_state(), make_step()))
        observer.meter.flops = train_step.flops
        observer.trace(step, scalars)
        while step < config.steps and not stop.is_set():
            with observer.meter.fetching(scalars):
                batch = config.task.prepare(config.model, next(loader))
            jax.block_until_ready(scalars)  # one step ahead, no more: a stop is heeded soon
            state, scalars = train_step(state, frozen, meshes.put_batch(batch, mesh), key)
            step += 1
            observer.trace(step, scalars)
            if step % config.log_every == 0 or step == config.steps:
                observer.report(step, scalars)
            if step % config.save_every == 0 or step == config.steps:
                save(checkpoints, step, state, loader, observer)
                saved = step
            if step % config.preview_every == 0 or step == config.steps:
                observer.preview(step, state, frozen)
        if step == config.steps:
            observer.finish(state, frozen)
    except Stopped:
        pass
    finally:
        loader.close()
    if state is not None and step > saved:
        save(checkpoints, step, state, loader, observer)
    if stopped := stop.is_set():
        checkpoints.wait()
        observer.say(f"stopped at step {step} of {config.steps}; the same command goes on from it")
    return not stopped


def finished(
    config: TrainConfig, step: int, state: TrainState, frozen: nnx.State, observer: Observer
) -> bool:
    """A run that has all its steps: what it still lacks is drawn, nothing is trained."""
    if observer.is_finished(step):
        observer.say(f"nothing to do: {step} of {config.steps} steps are trained; raise --steps")
    else:
        observer.preview(step, state, frozen)
        observer.finish(state, frozen)
    return True


def save(
    checkpoints: Checkpoints, step: int, state: TrainState, loader: Loader, observer: Observer
) -> None:
    """Start writing a checkpoint, once the records that belong before it are on the disk."""
    with observer.meter.saving():
        observer.sync()
        checkpoints.save(step, state, {"data": loader.state()})


def open_sources(config: TrainConfig, mesh: Mesh) -> tuple[Source, Source]:
    """What is trained on and what is held out, checked against the rest of the config."""
    check_batch(config, mesh)
    sources = config.data.build(), config.held_out.build()
    if config.judge is not None:
        config.judge.check(sources[1])
    for source in sources:
        got, want = source[0]["video"].shape, config.task.video.sizes
        if got != want:
            raise Refusal(
                f"the data holds videos of {_size(got)}, task.video wants {_size(want)}; make "
                "data and held_out give that size"
            )
    return sources


def open_loader(config: TrainConfig, source: Source) -> Loader:
    return Loader(
        source,
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def compiled_step(config: TrainConfig, built: Built, source: Source, mesh: Mesh) -> Program:
    """The training step, compiled for the shapes of this run."""
    sample = config.task.prepare(config.model, stack([source[0]]))
    traced = traced_step(config, built, mesh, sample)
    with jax.set_mesh(mesh):
        compiled = traced.lower().compile()
    return Program(compiled, flops(traced, compiled, mesh))


def _size(shape: tuple[int, ...]) -> str:
    t, h, w, c = shape
    return f"{t} frames of {h}x{w}x{c}"
