"""A model in the files of another library, whichever: its configs, and its tensors by one name.

The one name is that of the diffusers folder, "unet.conv_in.weight". A single file is read under
those names too (`single_file`), so that what follows knows one format.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.conditioning import tokenizer
from vdm_jax.conditioning.image import CLIP_MEAN, CLIP_STD
from vdm_jax.convert import inferred, pipelines, rules, single_file
from vdm_jax.convert.pipelines import CONFIG_FILES, STABLE_VIDEO, TOKENIZER, Configs, Pipeline
from vdm_jax.convert.read.plain_file import PlainFile
from vdm_jax.convert.read.safetensors_file import parsed
from vdm_jax.convert.read.source import open_component, open_source
from vdm_jax.convert.read.tensors import Limits, Source, TensorInfo
from vdm_jax.core.refusal import Refusal

INDEX = "model_index.json"
PREPROCESSOR = "feature_extractor/preprocessor_config.json"
LARGEST_CONFIG = 1_000_000  # bytes
WORDS = Limits(tensors=1_000_000)  # of a vocabulary: pairs of them are lists in a tokenizer.json


@dataclass(frozen=True)
class Original:
    """A model as found.

    pipeline: which of diffusers' it is of.
    tensors: by their diffusers name, "part.name", with the shape they have there.
    read: one of them. called: what the file calls one, for messages.
    unused: names in the file that hold nothing of the model. foreign: names nobody knows.
    beside: further texts that belong to the model, by the name of their file.
    """

    kind: str
    pipeline: Pipeline
    configs: Configs
    tensors: Mapping[str, TensorInfo]
    read: Callable[[str], np.ndarray]
    called: Callable[[str], str]
    unused: tuple[str, ...]
    foreign: tuple[str, ...]
    beside: Mapping[str, str]

    @property
    def files(self) -> list[Path]:
        """The files of weights."""
        return sorted({info.file for info in self.tensors.values()})


@contextmanager
def opened(
    path: Path,
    *,
    variant: str | None = None,
    configs: Path | None = None,
    num_frames: int | None = None,
) -> Iterator[Original]:
    """The model in a diffusers folder or in a single file.

    variant: of a folder's files, as in `….fp16.safetensors`. configs: a diffusers folder whose
    configs hold for a single file; None is the folder that the file lies in, as published, or else
    they are inferred from its shapes. num_frames: of the videos
    that the model is used for; None is what its config says, or else its name.

    Raises Refusal for what is neither, or names a part that this package does not know.
    """
    with ExitStack() as stack:
        if path.is_dir():
            if configs is not None:
                raise Refusal(f"--configs is for a single file; {path} is a folder with its own")
            pipeline = _pipeline(path)
            read = _with_frames(pipeline, _configs(path, pipeline), num_frames)
            words = _words(path) if TOKENIZER in pipeline.others else {}
            names = pipeline.parts
            parts = {p: stack.enter_context(open_component(path / p, variant)) for p in names}
            yield folder(pipeline, read, parts, words)
        else:
            if variant is not None:
                raise Refusal(f"--variant is for a diffusers folder; {path} is a single file")
            source = stack.enter_context(open_source(path))
            frames = num_frames or _frames_by_name(path)
            beside = path.parent if (path.parent / INDEX).is_file() else None
            held = configs or beside
            read = None if held is None else _of_single(path, held, num_frames)
            yield single(source, read, frames)


def folder(
    pipeline: Pipeline, configs: Configs, parts: Mapping[str, Source], beside: Mapping[str, str]
) -> Original:
    """A model of the diffusers layout, from the open files of its parts.

    beside: the tokenizer's files, if it has one.
    """
    places = {
        f"{part}.{today}": (part, name)
        for part, source in parts.items()
        for name, today in _todays(part, source).items()
    }
    tensors = {known: parts[part].tensors()[name] for known, (part, name) in places.items()}
    unused = tuple(name for name in tensors if _silent(name, pipeline, configs))

    def read(name: str) -> np.ndarray:
        part, theirs = places[name]
        return parts[part].read(theirs)

    def called(name: str) -> str:
        return "/".join(places.get(name) or name.split(".", 1))

    return Original(
        kind="diffusers folder",
        pipeline=pipeline,
        configs=configs,
        tensors={name: info for name, info in tensors.items() if name not in unused},
        read=read,
        called=called,
        unused=unused,
        foreign=(),
        beside=beside,
    )


def _todays(part: str, source: Source) -> dict[str, str]:
    """The names in a part's file, and what libraries call each today; never two alike."""
    names = source.tensors()
    known = {name: pipelines.TODAYS.get(part, str)(name) for name in names}
    return {n: n if today in names else today for n, today in known.items()}


def single(source: Source, configs: Configs | None, num_frames: int) -> Original:
    """A model of the original layout, from its open file."""
    infos = source.tensors()
    unused = set(rules.unused(infos, single_file.UNUSED))
    shapes = {name: info.shape for name, info in infos.items() if name not in unused}
    if configs is None:
        configs = inferred.configs(shapes, num_frames)
    else:
        configs = {**configs, "vae": inferred.with_decoder(configs["vae"], shapes)}
    table = single_file.table(configs)
    tensors, foreign = {}, []
    for name, shape in single_file.split(shapes).items():
        named = table.ours(name)
        if named is None:
            foreign.append(name)
            continue
        info = infos[single_file.whole(name)]
        tensors[named.name] = info._replace(shape=named.how.shape(shape))
    return Original(
        kind="single file",
        pipeline=STABLE_VIDEO,
        configs=configs,
        tensors=tensors,
        read=single_file.Renamed(source, table).read,
        called=lambda name: _original_name(table, name),
        unused=tuple(sorted(unused)),
        foreign=tuple(foreign),
        beside={},
    )


def _original_name(table: rules.Table[single_file.Form], name: str) -> str:
    named = table.theirs(name)
    return name if named is None else named.name


def _silent(name: str, pipeline: Pipeline, configs: Configs) -> bool:
    """Whether a tensor of a folder is one that the original program never reads.

    Position numbers of older transformers; and blocks past the second in the middle of a temporal
    decoder of more than two layers, which diffusers makes and passes over.
    """
    if name in pipeline.silent:
        return True
    temporal = configs["vae"].get("_class_name") == "AutoencoderKLTemporalDecoder"
    block = re.match(r"vae\.decoder\.mid_block\.resnets\.(\d+)\.", name)
    layers = configs["vae"].get("layers_per_block", 1)
    return temporal and block is not None and 2 <= int(block[1][:9]) < layers


def _frames_by_name(path: Path) -> int:
    """14 for svd.safetensors and its like, 25 for svd_xt…: the weights do not tell."""
    name = path.name.lower()
    return 14 if name.startswith("svd") and "xt" not in name else 25


def _with_frames(
    pipeline: Pipeline, configs: dict[str, dict[str, Any]], num_frames: int | None
) -> Configs:
    if num_frames is not None:
        if pipeline is not STABLE_VIDEO:
            raise Refusal(f"--num-frames is for videos; {pipeline.title} makes pictures")
        configs["unet"]["num_frames"] = num_frames
    return configs


def _of_single(path: Path, folder: Path, num_frames: int | None) -> Configs:
    """The configs in a folder, for a single file."""
    pipeline = _pipeline(folder)
    if pipeline is not STABLE_VIDEO:
        raise Refusal(
            f"{path}: a single file is read of {STABLE_VIDEO.title} only, and {folder} is of "
            f"{pipeline.title}: give the folder itself with --from"
        )
    return _with_frames(pipeline, _configs(folder, pipeline), num_frames)


# ---- Config files --------------------------------------------------------------------------------


def _pipeline(folder: Path) -> Pipeline:
    """Whose folder it is: what its index says, or else its U-Net."""
    if not folder.is_dir():
        raise Refusal(f"{folder} is not a folder of diffusers configs")
    if (folder / INDEX).exists():
        return pipelines.called(_json(folder / INDEX).get("_class_name"), folder / INDEX)
    if not (folder / CONFIG_FILES["unet"]).exists():
        raise Refusal(f"{folder} is not a diffusers folder: it has no {INDEX}")
    return pipelines.with_unet(_json(folder / CONFIG_FILES["unet"]))


def _configs(folder: Path, pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """The configs of a diffusers folder, by part."""
    if "image_encoder" in pipeline.parts and (folder / PREPROCESSOR).exists():
        _check_preprocessor(folder / PREPROCESSOR)
    return {part: _json(folder / CONFIG_FILES[part]) for part in (*pipeline.parts, "scheduler")}


def _words(folder: Path) -> dict[str, str]:
    """The tokenizer's files by their name in the folder, each plain text or a JSON object."""
    return {
        f"{TOKENIZER}/{name}": _text(folder / TOKENIZER / name)
        for name in tokenizer.present(folder / TOKENIZER)
    }


def _text(path: Path) -> str:
    with PlainFile(path) as file:
        if file.size > tokenizer.MAX_BYTES:
            raise Refusal(f"{path}: has {file.size} bytes; {tokenizer.MAX_BYTES} are read")
        text = file.read(0, file.size)
        if path.suffix == ".json":
            parsed(file, text.strip(), "tokenizer", WORDS)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(f"{path}: is not text in UTF-8: {error.reason}") from None


def _json(path: Path) -> dict[str, Any]:
    with PlainFile(path) as file:
        if file.size > LARGEST_CONFIG:
            raise Refusal(f"{path}: a config of {file.size} bytes; {LARGEST_CONFIG} are read")
        return parsed(file, file.read(0, file.size).strip(), "config")


def _check_preprocessor(path: Path) -> None:
    """Pictures are normalised as CLIP's; nothing else of the preprocessor is used."""
    config = _json(path)
    for name, ours in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)):
        if config.get(name, list(ours)) != list(ours):
            got = str(config[name])[:80]
            raise Refusal(f"{path}: {name} is {got}; only CLIP's own, {list(ours)}, is known here")
