"""The training loop: data, state, step; once in a while a report, a preview, a checkpoint."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.core import mesh as meshes
from vdm_jax.core import processes
from vdm_jax.core.checkpoint import Checkpoints
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.loader import Loader
from vdm_jax.data.source import InGroups, Source, near, stack
from vdm_jax.train import agree, begin, fits, precomputed, rundir, track
from vdm_jax.train.agree import Stop
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.heartbeat import pulse
from vdm_jax.train.measure import Profile
from vdm_jax.train.observer import Observer
from vdm_jax.train.rollback import Rollback
from vdm_jax.train.state import Built, TrainState
from vdm_jax.train.stop import Stopped, stop_sign
from vdm_jax.train.traced import Program, check_batch, compiled, flops, traced_step


def train(config: TrainConfig, workdir: Path, profile: Profile | None = None) -> bool:
    """Run `config` in `workdir` to its last step, from wherever an earlier call left off.

    profile: steps of which a trace is kept in `workdir`.

    Returns whether it was finished; False: SIGTERM or Ctrl-C stopped it, and its state is saved.
    Raises Refusal, before anything is compiled, when config, data, directory or checkpoints do not
    fit together, and later when going back to no checkpoint helps against steps that go wrong.
    """
    with stop_sign() as stop:
        return _train(config, workdir, profile, stop)


def _train(
    config: TrainConfig, workdir: Path, profile: Profile | None, stop: threading.Event
) -> bool:
    with processes.together("the run could not be prepared"):
        if profile is not None:
            profile.check(config.steps)
        rundir.check(workdir, config)
        track.check(config.trackers)
        mesh = config.mesh.build()
        sources = open_sources(config, mesh)
        built = begin.build(config, mesh)
        precomputed.check(config, sources, built)
        fits.check(config, built, mesh)
    with Checkpoints(workdir / "checkpoints", keep=config.keep) as checkpoints:
        checkpoints.check_room((built.abstract, built.frozen))
        loader = open_loader(config, sources[0], mesh)
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
        before = None if restored is None else restored.state
        rollback = Rollback(config.guard, checkpoints, built.abstract, restored)
        own = agree.own(stop)
        with Observer(config, workdir, built, mesh, sources, own, before, profile) as observer:
            if restored is not None:
                observer.say(f"going on from step {step} of {config.steps} in {workdir}")
            if profile is not None and step >= profile.first:
                observer.say(f"no profile: step {profile.first} was taken before")
            make_state = partial(rundir.weights, workdir, config, built, before)
            make_state = precomputed.checked(config, sources[0], make_state)
            make_step = partial(compiled_step, config, built, sources[0], mesh)
            keeper = Keeper(checkpoints, loader, rollback, observer)
            return _run(config, mesh, step, make_state, make_step, keeper, agree.agreed(stop))


def _run(
    config: TrainConfig,
    mesh: Mesh,
    step: int,
    make_state: Callable[[], tuple[TrainState, nnx.State]],
    make_step: Callable[[], Program],
    keeper: "Keeper",
    stop: Stop,
) -> bool:
    state, scalars = None, None
    loader, observer, key = keeper.loader, keeper.observer, jax.random.key(config.seed)
    due: Callable[[int], bool] = lambda every: step % every == 0 or step == config.steps  # noqa: E731
    try:
        if step == config.steps:
            return finished(config, step, *make_state(), observer)
        (state, frozen), train_step = observer.compile(lambda: (make_state(), make_step()))
        processes.meet("compiled")
        observer.meter.flops = train_step.flops
        observer.trace(step, scalars)
        while step < config.steps and not stop.is_set():
            with observer.meter.fetching(scalars):
                batch = config.task.prepare(config.model, next(loader))
                batch = meshes.put_batch(batch, mesh)  # travels while the step before is taken
            jax.block_until_ready(scalars)  # one step ahead, no more: a stop is heeded soon
            if keeper.rollback.due(scalars):
                state = None  # makes room
                state = keeper.went_back(step)
            state, scalars = train_step(state, frozen, batch, key)
            step += 1
            pulse().beat(step)
            observer.trace(step, scalars)
            if due(config.log_every):
                observer.report(step, scalars)
            if due(config.save_every) and not keeper.rollback.bad(scalars):
                keeper.try_save(step, state)
            if due(config.preview_every):
                observer.preview(step, state, frozen)
        if step == config.steps:
            observer.finish(state, frozen)
    except Stopped:
        pass
    finally:
        loader.close()
    keeper.save_last(step, state)
    if stopped := stop.is_set():
        observer.say(f"stopped at step {step} of {config.steps}; the same command goes on from it")
    return not stopped


@dataclass
class Keeper:
    """Saves what a run goes on from, and takes it back."""

    checkpoints: Checkpoints
    loader: Loader
    rollback: Rollback
    observer: Observer

    def save(self, step: int, state: TrainState) -> None:
        """Start writing a checkpoint, once the records that belong before it are on the disk."""
        with pulse().resting(), self.observer.meter.saving():
            self.observer.sync()
            meta = {"data": self.loader.state(), **self.rollback.meta()}
            self.checkpoints.save(step, state, meta)

    def try_save(self, step: int, state: TrainState) -> None:
        """As `save`; a disk that does not take it, or did not take the last one, ends no run."""
        with pulse().resting(), self.observer.enduring("the last checkpoint"):
            self.checkpoints.wait()
        with self.observer.enduring(f"the checkpoint of step {step}"):
            self.save(step, state)

    def save_last(self, step: int, state: TrainState | None) -> None:
        """Return when `step` is on the disk; raises what prevents it. None: nothing to save."""
        if state is None:
            return
        with pulse().resting(), self.observer.enduring("the last checkpoint"):
            self.checkpoints.wait()
        self.save(step, state)
        with pulse().resting():
            self.checkpoints.wait()

    def went_back(self, step: int) -> TrainState:
        """The state to go on with, after steps that went wrong up to `step`."""
        with pulse().resting(), self.observer.meter.saving():
            state, to = self.rollback.back(step)
        self.observer.went_back(step, to, int(state.skipped))
        return state


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


def open_sources(config: TrainConfig, mesh: Mesh) -> tuple[Source, Source]:
    """What is trained on and what is held out, checked against the rest of the config."""
    check_batch(config, mesh)
    sources = config.data.build(), config.held_out.build()
    for source in sources:
        if isinstance(source, InGroups) and len(source.groups) > 1:
            raise Refusal(
                f"the data comes in buckets of {len(source.groups)} shapes; a run takes one as "
                "yet: give Samples, or Buckets of one"
            )
    if config.judge is not None:
        config.judge.check(sources[1])
    for source in sources:
        got, want = precomputed.sizes(source, config.max_bad), config.task.video.sizes
        if got != want:
            raise Refusal(
                f"the data holds videos of {_size(got)}, task.video wants {_size(want)}; make "
                "data and held_out give that size"
            )
    return sources


def open_loader(config: TrainConfig, source: Source, mesh: Mesh) -> Loader:
    """The stream of batches, of which this process delivers what its devices need."""
    return Loader(
        source,
        batch_size=config.batch_size,
        seed=config.seed,
        rows=meshes.local_rows(mesh, config.batch_size),
        reading=config.reading,
        max_bad=config.max_bad,
    )


def compiled_step(config: TrainConfig, built: Built, source: Source, mesh: Mesh) -> Program:
    """The training step, compiled for the shapes of this run."""
    sample = config.task.prepare(config.model, stack([near(source, 0, config.max_bad)]))
    traced = traced_step(config, built, mesh, sample)
    program = compiled(traced, mesh)
    return Program(program, flops(traced, program, mesh))


def _size(shape: tuple[int, ...]) -> str:
    t, h, w, c = shape
    return f"{t} frames of {h}x{w}x{c}"
