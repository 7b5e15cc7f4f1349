"""The worker: claims jobs of one shape, draws them in one program, stores what came out.

It warms, while nobody waits, each model's own shape and those that were asked for most lately. A
job that it cannot draw fails in words that say why; one that breaks it is begun again alone.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import sqlalchemy as sa

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample.order import Order
from vdm_jax.sample.studio import Studio
from vdm_jax.serve.config import ServeConfig
from vdm_jax.serve.shape import Shape
from vdm_jax.serve.store import files
from vdm_jax.serve.store.files import Files
from vdm_jax.serve.store.jobs import Claimed, Job, Jobs
from vdm_jax.serve.store.schema import Database
from vdm_jax.serve.store.workers import COMPILING, FAILED, KNOWN, LOADING, READY, Workers
from vdm_jax.serve.worker import results
from vdm_jax.serve.worker.watch import LOG, Watch

IDLE = 0.1  # seconds between looks at an empty queue
AWAY = 1.0  # seconds between looks at a store that does not answer
WARMED = 4  # shapes of earlier days that are compiled before they are asked for
NICE = 5
NOT_SETTINGS = "prompt", "seed", "num_inference_steps"


class Worker:
    """Draws what the store has for the models of `config`, until it is told to stop."""

    def __init__(self, config: ServeConfig, database: Database, name: str) -> None:
        self._config, self._name = config, name
        self._jobs, self._workers = Jobs(database, config.bounds), Workers(database)
        self._files = Files(Path(config.data))
        device = jax.devices()[0]
        self._device = f"{jax.device_count()} x {device.device_kind}"
        if device.platform == "cpu":
            _step_back()  # who asks how far a video is should not wait for it
        self._jobs.orphaned(name)
        self._workers.begin(name, self._device)
        self.watch = Watch(self._jobs, self._workers, name, self._device, config.lease)
        self._studios: dict[str, Studio] = {}

    def run(self) -> None:
        """Until it is told to stop."""
        self._describe()
        self._load()
        cold = self._cold()
        while not self.watch.stopping:
            try:
                if self._serve():
                    continue
                if cold:
                    self._warm(*cold.pop(0))
                else:
                    time.sleep(IDLE)
            except sa.exc.SQLAlchemyError as error:
                LOG.warning("the job store does not answer: %s", type(error).__name__)
                self._put_back()
        self._workers.end(self._name)

    def _put_back(self) -> None:
        """Once the store answers again: what was being drawn, which cannot be told any more."""
        while not self.watch.stopping:
            time.sleep(AWAY)
            try:
                return self._jobs.returned(self._name)
            except sa.exc.SQLAlchemyError:
                continue

    # ---- Models ----------------------------------------------------------------------------------

    def _describe(self) -> None:
        """Say what each model does, which is known before anything is loaded."""
        for name, folder in self._config.models.items():
            dtype: Any = self._config.dtype or None
            try:
                studio = Studio(folder, dtype=dtype, batch_size=self._config.batch_size)
            except Refusal as refusal:
                self._workers.tell(self._name, name, FAILED, {}, str(refusal))
                LOG.error("%s: %s", name, refusal)
                continue
            self._studios[name] = studio
            self._workers.tell(self._name, name, LOADING, studio.facts())

    def _load(self) -> None:
        for name, studio in list(self._studios.items()):
            begun = time.monotonic()
            try:
                studio.load()
            except Exception as fault:  # damaged, or too large for the devices
                self._workers.tell(self._name, name, FAILED, studio.facts(), _line(fault))
                LOG.error("%s: %s", name, fault)
                del self._studios[name]
                continue
            self._workers.tell(self._name, name, READY, studio.facts())
            LOG.info("%s: loaded in %.1f s on %s", name, time.monotonic() - begun, self._device)

    def _cold(self) -> list[tuple[Shape, dict[str, Any]]]:
        """Programs worth compiling before they are needed, and what to ask for to have them."""
        cold: dict[Shape, dict[str, Any]] = {}
        known = [p for p in self._workers.programs() if p.worker == self._name]
        for name, studio in self._studios.items():
            own = {**studio.facts()["defaults"], "prompt": "", "seed": 0}
            cold[Shape.of(name, own)] = own
            for shape in [Shape.parsed(p.shape) for p in known if p.model == name][:WARMED]:
                sizes = {"width": shape.width, "height": shape.height}
                steps = {"num_frames": shape.num_frames, "num_inference_steps": shape.num_steps}
                again = {**own, **sizes, **steps}
                if Shape.of(name, again) == shape:
                    cold.setdefault(shape, again)
        return list(cold.items())

    def _warm(self, shape: Shape, asked: dict[str, Any]) -> None:
        name, studio = shape.model, self._studios[shape.model]
        drawn = studio.shape(_order(asked, None))
        for count in sorted({1, studio.at_once(drawn)}):
            if self.watch.stopping or self._jobs.any_waiting(list(self._studios)):
                return
            self._workers.program(self._name, name, str(shape), state=COMPILING)
            try:
                made = studio.warm(drawn, count)
            except Exception as fault:  # it may be too large here; who asks for it is told
                LOG.warning("%s for %d at once is not warmed: %s", shape, count, fault)
                self._workers.program(self._name, name, str(shape), state=KNOWN)
                return
            said = {"state": READY, "compiling": made.seconds}
            self._workers.program(self._name, name, str(shape), **said)
            LOG.info("%s: compiled for %d at once in %.1f s", shape, made.batch_size, made.seconds)

    # ---- Jobs ------------------------------------------------------------------------------------

    def _serve(self) -> bool:
        """Draw the next jobs; whether there were any."""
        models = list(self._studios)
        if not models or not self._jobs.any_waiting(models):
            return False
        rows = self._jobs.claim(self._name, models, self._config.batch_size)
        ordered = [(row, order) for row in rows if (order := self._ordered(row)) is not None]
        if not ordered:
            return True
        rows, orders = [row for row, _ in ordered], [order for _, order in ordered]
        claimed = [Claimed(row.id, row.attempt) for row in rows]
        self.watch.begin(claimed, rows[0].steps)
        try:
            self._draw(rows, claimed, orders)
        except sa.exc.SQLAlchemyError:
            raise
        except Refusal as refusal:
            if len(rows) > 1:
                self._jobs.crashed(claimed)  # one of them is at fault: each is drawn alone
            else:
                self._jobs.fail(claimed[0], "generation_failed", str(refusal))
        except Exception:
            LOG.exception("drawing %s failed", rows[0].shape)
            self._jobs.crashed(claimed)
        finally:
            self.watch.end()
        return True

    def _ordered(self, row: Job) -> Order | None:
        """What a job asks for; None where the model cannot draw it, and it has failed."""
        try:
            picture = None
            if row.reference:
                picture = video.read_image(self._files.path(row.id, files.REFERENCE))
            order = _order(row.asked, picture)
            self._studios[row.model].check(order)
        except Refusal as refusal:
            self._jobs.fail(Claimed(row.id, row.attempt), "invalid_request", str(refusal))
            return None
        return order

    def _draw(
        self, rows: Sequence[Job], claimed: Sequence[Claimed], orders: Sequence[Order]
    ) -> None:
        studio, shape = self._studios[rows[0].model], rows[0].shape
        self._compile(studio, orders, rows[0].model, shape)
        begun = time.monotonic()
        videos = studio.draw(orders, self.watch.on_step)
        took = (time.monotonic() - begun) / len(rows)
        if videos is None:
            self._jobs.release(claimed)  # of those that were deleted, nothing is left to release
            return
        for row, each, frames in zip(rows, claimed, videos, strict=True):
            self._keep(row, each, frames, took)
        self._workers.program(self._name, rows[0].model, shape, state=READY, drawing=took)

    def _compile(self, studio: Studio, orders: Sequence[Order], model: str, shape: str) -> None:
        """What draws these, if it is not there; it is told while that takes its time."""
        drawn = studio.shape(orders[0])
        cold = drawn not in [made.shape for made in studio.compiled]
        if cold:
            self._workers.program(self._name, model, shape, state=COMPILING)
            LOG.info("%s: compiling", shape)
        made = studio.warm(drawn, min(len(orders), studio.at_once(drawn)))
        if cold:
            said = {"state": READY, "compiling": made.seconds}
            self._workers.program(self._name, model, shape, **said)

    def _keep(self, row: Job, claimed: Claimed, frames: Any, took: float) -> None:
        made = results.of_video(frames, row.asked["fps"])
        if row.kind == "image":
            made = results.of_image(frames)
        took = round(took, 3)
        try:
            with self._files.drafted(row.id, made) as draft:
                counts = self._jobs.complete(claimed, took, draft.size, draft.publish)
        except OSError as fault:
            what = f"the video cannot be stored: {fault.strerror}"
            counts = self._jobs.fail(claimed, "storage", what)
        if not counts and row.id not in self._jobs.exist([row.id]):
            self._files.remove(row.id)


def _order(asked: Any, picture: Any) -> Order:
    settings = {name: asked[name] for name in asked if name not in NOT_SETTINGS}
    settings["num_steps"] = asked["num_inference_steps"]
    return Order(prompt=asked["prompt"], picture=picture, seed=asked["seed"], settings=settings)


def _line(fault: Exception) -> str:
    """What clients are told of a model that cannot be loaded."""
    return str(fault) if isinstance(fault, Refusal) else "it cannot be loaded on these devices"


def _step_back() -> None:
    """Let others go first: each thread that there is, and those that these will start."""
    for thread in os.listdir("/proc/self/task"):
        os.setpriority(os.PRIO_PROCESS, int(thread), NICE)


def quiet() -> None:
    """What the libraries say of themselves while they load is not for a server's log, nor are the
    prompts, of which the text encoders say what they cut off."""
    for name in ("absl", "vdm_jax.conditioning"):
        logging.getLogger(name).setLevel(logging.ERROR)
