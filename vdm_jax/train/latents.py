"""`python -m vdm_jax.train.latents --config configs/x.py --output DIR`: videos encoded once.

What a run would encode at every step is computed once and read by `data.latents.LatentClips`. The
work is cut into shards of a fixed number of samples, each written whole or not at all: after a kill
the same command goes on with the shards that are missing, and machines that share DIR take every
n-th of them with --part, without knowing of each other. A sample's latents do not depend on its
neighbours, so that DIR comes out the same, however the work was shared.

Captions are embedded too where the text encoder is a tower that the run does not train: 158 kB a
sample for CLIP's of Stable Diffusion 2, 77 tokens of 1024 features. No step runs the tower then,
which saves 4 % of the operations of stage I on latents, and 0.7 % of those of stage II; its weights
stay on the devices, for previews and the held-out loss read captions of their own.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tqdm import tqdm

from vdm_jax.conditioning.tower import TextTower
from vdm_jax.core import command, options
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.joint import WithPictures
from vdm_jax.data.latents import Encoded, pack
from vdm_jax.data.loader import Sample, Source
from vdm_jax.data.shard import Manifest, Provenance, ShardEntry, Writer, shard_entry, verify
from vdm_jax.tasks import denoising, latent
from vdm_jax.tasks.task import Arrays, ModelConfig, VideoShape, abstract
from vdm_jax.train import begin, precomputed
from vdm_jax.train.config import Data, TrainConfig, read

PROG = "python -m vdm_jax.train.latents"
USAGE = f"""\
usage: {PROG} --config FILE[:FUNCTION] --output DIR [--OPTION VALUE ...]

Encode the videos that a run trains on, once, and their captions where its text encoder is a tower
that is not trained. The same command again goes on after a kill.

  --config FILE[:FUNCTION]  the training config; its data and its encoders are taken
  --output DIR              where latents go; pictures beside videos go to DIR/pictures, the
                            videos to DIR/videos
  --part K/N                take every N-th shard from the K-th on, 0 <= K < N, where other
                            machines take the rest
  --shard-samples COUNT     samples in a shard (default: 64)
  --help                    this; with --config also every option of that config
"""
HELP = ("--help", "-h")
SPLIT = "train"
IDENTITY = "encoding.json"
AHEAD = 2  # groups of samples that are read ahead
THREADS = 4
TOLD_APART = ("video", "caption", "fps", "key")  # fields with a place of their own in a record


def main(args: Sequence[str]) -> int:
    """Exit code 0: the part that was asked for is done."""
    own = options.own(args, ("--config", "--output", "--part", "--shard-samples"), HELP)
    if own.switches:
        print(USAGE)
    elif not {"--config", "--output"} <= own.values.keys():
        raise Refusal(f"--config and --output are needed; see {PROG} --help")
    if "--config" not in own.values:
        return 0
    rest = [*own.rest, *(["--help"] if own.switches else [])]
    config = read(own.values["--config"], rest, prog=PROG)
    part = _part(own.values.get("--part", "0/1"))
    count = own.values.get("--shard-samples", "64")
    if not count.isdecimal() or int(count) < 1:
        raise Refusal(f"--shard-samples must be a number from 1, got {count}")
    for line in encode(config, Path(own.values["--output"]), part=part, per_shard=int(count)):
        print(line, flush=True)
    return 0


def encode(
    config: TrainConfig, output: Path, *, part: tuple[int, int] = (0, 1), per_shard: int = 64
) -> Iterator[str]:
    """Write the latents of `config.data`; yields what was done, a line for each dataset.

    part: (k, n) to take every n-th shard from the k-th on.
    Raises Refusal for a config without latents, or a folder that holds those of something else.
    """
    if not isinstance(config.task, latent.Latent) or config.model.vae is None:
        raise Refusal(f"{type(config.task).__name__} does not work in latents: nothing to compute")
    mesh = meshes.MeshConfig().build_on(jax.local_devices())
    model, params = encoders(config, mesh)
    for folder, data, video in _datasets(config, output):
        source = data.build()
        if (got := precomputed.sizes(source)) != video.sizes:
            raise Refusal(f"the data holds videos of {got}, the task wants {video.sizes}")
        encoder = Encoder(mesh, model, params, video)
        job = Job(folder, source, encoder, per_shard)
        yield job.run(part)


def encoders(config: TrainConfig, mesh: Mesh) -> tuple[ModelConfig, nnx.State]:
    """What of the run's model says the same of a sample at every step, and its weights."""
    vae, params = begin.autoencoder(config, mesh)
    if not precomputed.keeps_text(config):
        return ModelConfig(vae=vae), params
    text = begin.text_encoder(config, mesh)
    return ModelConfig(vae=vae, text=config.model.text), nnx.State({**params, **text})


def _datasets(config: TrainConfig, output: Path) -> Iterator[tuple[Path, Data, VideoShape]]:
    video = config.task.video
    if isinstance(config.data, WithPictures):
        yield output / "videos", config.data.videos, video
        yield output / "pictures", config.data.pictures, replace(video, num_frames=1)
    else:
        yield output, config.data, video


def _part(text: str) -> tuple[int, int]:
    k, _, n = text.partition("/")
    if not (k.isdecimal() and n.isdecimal() and int(k) < int(n)):
        raise Refusal(f"--part {text}: say K/N with 0 <= K < N, such as 0/4")
    return int(k), int(n)


class Encoder:
    """Samples to what the network is told of them, one on each device at a time."""

    def __init__(self, mesh: Mesh, model: ModelConfig, params: nnx.State, video: VideoShape):
        """model, params: those of `encoders`."""
        self.video, self.group = video, mesh.size
        self._mesh, self._model, self._params = mesh, model, params
        graphdef, _ = abstract(model)

        def run(params: nnx.State, arrays: Arrays) -> Arrays:
            model = nnx.merge(graphdef, params)
            made = {"latents": latent.encode(model, arrays["video"])}
            if model.text is not None:
                stream = denoising.encode_text(model, arrays).tokens["text"]
                made[denoising.EMBEDDED] = stream.embedding
            return {name: rows.astype(jnp.float16) for name, rows in made.items()}

        self._run: Callable[..., Arrays] = jax.jit(run, out_shardings=meshes.batch_sharding(mesh))

    def __call__(self, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        """Latents "n t h w c" of at most `group` samples, and what their captions became "n l d".

        Where there are fewer, the last is encoded again.
        """
        rows = [samples[min(i, len(samples) - 1)] for i in range(self.group)]
        batch = {name: [row[name] for row in rows] for name in ("video", "caption")}
        arrays = latent.prepared(self._model, self.video, {"video": np.stack(batch["video"])})
        arrays |= denoising.captioned(self._model, {"caption": batch["caption"]})
        with jax.set_mesh(self._mesh):
            made = self._run(self._params, meshes.put_batch(arrays, self._mesh))
        return {name: np.asarray(rows)[: len(samples)] for name, rows in made.items()}

    def encoded(self, source: str) -> Encoded:
        """What the latents of `source`, a fingerprint, are made of."""
        vae, text = self._model.vae, self._text
        assert vae is not None
        return Encoded(
            vae=precomputed.name(self._params["vae"]),
            transform=precomputed.transform(vae),
            source=source,
            video=self.video.sizes,
            text=None if text is None else precomputed.text_name(text, self._params["text"]),
        )

    @property
    def sample_bytes(self) -> int:
        """About what a sample takes on the disk: what is computed, a first frame without loss."""
        t, h, w, c = self.video.sizes
        vae, text = self._model.vae, self._text
        assert vae is not None
        rows, columns = -(-h // vae.stride), -(-w // vae.stride)
        embedding = 0 if text is None else prod(text.sizes)
        latents = vae.frames(t) * rows * columns * vae.latent_channels
        return 2 * (latents + embedding) + h * w * c // 2

    @property
    def _text(self) -> TextTower | None:
        text = self._model.text
        assert text is None or isinstance(text, TextTower)  # as `encoders` sees to
        return text


@dataclass
class Job:
    """The latents of one source in one folder."""

    folder: Path
    source: Source
    encoder: Encoder
    per_shard: int

    def run(self, part: tuple[int, int]) -> str:
        """Write the shards of `part` that are missing, and the manifest when all are there."""
        self._claim()
        total = -(-len(self.source) // self.per_shard)
        missing = [n for n in range(part[0], total, part[1]) if self._entry(n) is None]
        self._check_room(len(missing))
        with (
            ThreadPoolExecutor(THREADS) as pool,
            tqdm(total=len(missing), unit=" shards", desc="encoding", disable=None) as bar,
        ):
            for number in missing:
                self._write(number, pool)
                bar.update()
        done = [entry for n in range(total) if (entry := self._entry(n)) is not None]
        if len(done) < total:
            return f"{self.folder}: {len(missing)} shards written, {total - len(done)} missing yet"
        self._manifest(tuple(done)).save(self.folder)
        verify(self.folder)
        size = sum(entry.bytes for entry in done) / 1e6
        return (
            f"{self.folder}: latents of {len(self.source)} samples in {total} shards, {size:.1f} "
            f"MB; {len(missing)} of them written now, every checksum right"
        )

    @cached_property
    def encoded(self) -> Encoded:
        return self.encoder.encoded(self.source.fingerprint)

    def _claim(self) -> None:
        """Say what the folder is for; refuse one that is for something else."""
        identity = {**self.encoded.stored(), "per_shard": self.per_shard}
        path = self.folder / IDENTITY
        if path.is_file():
            try:
                before = dict(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise Refusal(f"{path} is damaged ({error}); give another --output") from error
            if changed := [name for name in identity if before.get(name) != identity[name]]:
                raise Refusal(
                    f"{self.folder} holds latents whose {', '.join(changed)} differ; give another "
                    "--output"
                )
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise Refusal(f"{self.folder} exists and holds something else; give another --output")
        (self.folder / SPLIT).mkdir(parents=True, exist_ok=True)
        _whole(path, json.dumps(identity, indent=1))

    def _check_room(self, shards: int) -> None:
        needed = shards * self.per_shard * self.encoder.sample_bytes
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise Refusal(
                f"{self.folder}: {free / 1e9:.1f} GB are free, about {needed / 1e9:.1f} needed"
            )

    def _entry(self, number: int) -> ShardEntry | None:
        """Of a shard that is there and as long as it was written."""
        beside = self._beside(number)
        if not beside.is_file():
            return None
        try:
            entry = shard_entry(json.loads(beside.read_text(encoding="utf-8")))
        except ValueError:
            return None  # it is written again
        path = self.folder / entry.file
        return entry if path.is_file() and path.stat().st_size == entry.bytes else None

    def _beside(self, number: int) -> Path:
        return self.folder / SPLIT / f"{number:05d}.json"

    def _write(self, number: int, pool: ThreadPoolExecutor) -> None:
        first = number * self.per_shard
        numbers = range(first, min(first + self.per_shard, len(self.source)))
        writer = Writer(self.folder, SPLIT, 2**62, first=number)
        for samples in _read(self.source, numbers, self.encoder.group, pool):
            made = self.encoder(samples)
            for row, sample in enumerate(samples):
                each = {name: rows[row] for name, rows in made.items()}
                record = pack(sample["key"], picture=sample["video"][0], told=_told(sample), **each)
                sizes, fps = self.encoder.video.sizes, float(sample["fps"])
                writer.append(sample["key"], [record], sizes, fps, sample["caption"])
        (entry,) = writer.close()
        _whole(self._beside(number), json.dumps(asdict(entry)))

    def _manifest(self, shards: tuple[ShardEntry, ...]) -> Manifest:
        provenance = Provenance(
            title="latents",
            source=f"samples {self.source.fingerprint}",
            licence="that of the samples",
            credit=getattr(self.source, "credit", ""),
        )
        return Manifest(
            provenance=provenance, splits={SPLIT: shards}, encoded=self.encoded.stored()
        )


def _read(
    source: Source, numbers: Sequence[int], group: int, pool: ThreadPoolExecutor
) -> Iterator[list[Sample]]:
    """Samples in groups, some of them read ahead."""
    waiting: deque[list[Future[Sample]]] = deque()
    for start in range(0, len(numbers), group):
        each = numbers[start : start + group]
        waiting.append([pool.submit(source.__getitem__, number) for number in each])
        if len(waiting) > AHEAD:
            yield [future.result() for future in waiting.popleft()]
    while waiting:
        yield [future.result() for future in waiting.popleft()]


def _told(sample: Sample) -> dict[str, float]:
    """What more a sample says of itself in single numbers."""
    more: dict[str, Any] = {n: v for n, v in sample.items() if n not in TOLD_APART}
    kinds = {name: np.asarray(value) for name, value in more.items()}
    return {
        name: float(value)
        for name, value in kinds.items()
        if not value.ndim and value.dtype.kind in "iuf"
    }


def _whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    command.run(main)
