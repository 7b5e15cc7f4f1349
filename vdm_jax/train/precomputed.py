"""Data that hold latents instead of videos: whether a run can train on them.

Latents belong to the encoder that made them, and embeddings of captions to their text encoder.
Another one's look just as well to the network, and nobody would notice but by what it learns: so
they are refused.
"""

import hashlib
import json
from collections.abc import Callable, Iterator

import jax
from flax import nnx

from vdm_jax.conditioning.tower import TextTower
from vdm_jax.core.digest import digest
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.joint import Joint
from vdm_jax.data.latents import Latents
from vdm_jax.data.source import Source, near
from vdm_jax.models.vae import VAEConfig
from vdm_jax.models.video_vae import VideoVAEConfig
from vdm_jax.tasks.latent import Latent
from vdm_jax.tasks.task import abstract
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.state import Built, TrainState

ENCODER = ("encoder", "quant")  # the parts of an autoencoder that make latents
PROBES = ("", "dogs, 1st")  # captions that tell tokenizers apart
AGAIN = "compute them again, python -m vdm_jax.train.latents"

MakeState = Callable[[], tuple[TrainState, nnx.State]]


def sizes(source: Source, max_bad: int = 0) -> tuple[int, ...]:
    """Frames, height, width and colours of the videos of a source, or of those it was made of."""
    if isinstance(source, Joint):
        return sizes(source.videos, max_bad)
    if isinstance(source, Latents):
        return source.encoded.video
    return near(source, 0, max_bad)["video"].shape


def check(config: TrainConfig, sources: tuple[Source, Source], built: Built) -> None:
    """Refuse latents where there should be none, before anything is loaded."""
    if any(_latents(sources[1])):
        raise Refusal("held_out holds latents; previews are drawn beside videos: give it those")
    if not any(_latents(sources[0])):
        return
    if not isinstance(config.task, Latent):
        raise Refusal(f"data holds latents; {type(config.task).__name__} does not work in latents")
    if any(path[:2] in {("vae", part) for part in ENCODER} for path in _paths(built)):
        raise Refusal(
            "data holds latents, which the encoder that is trained will no longer make; train on "
            "videos, or leave vae out of trainable"
        )
    embedded = any(latents.encoded.text for latents in _latents(sources[0]))
    if embedded and config.model.text is not None and not keeps_text(config):
        raise Refusal(
            "data holds captions embedded by a text encoder that is not trained; that of this run "
            f"is, or it is no tower: leave text out of trainable, or {AGAIN}"
        )


def checked(config: TrainConfig, source: Source, make_state: MakeState) -> MakeState:
    """`make_state`, which refuses an encoder that is not that of the latents in `source`."""

    def made() -> tuple[TrainState, nnx.State]:
        state, frozen = make_state()
        for latents in _latents(source):
            _check_encoder(config, latents, frozen["vae"])
            if latents.encoded.text is not None and config.model.text is not None:
                _check_text(config.model.text, latents, frozen["text"])
        return state, frozen

    return made


def name(vae: nnx.State) -> str:
    """Of an autoencoder's encoder, by its weights."""
    return digest(nnx.State({part: vae[part] for part in ENCODER}))


def keeps_text(config: TrainConfig) -> bool:
    """Whether a caption is the same to the network at every step: read by a tower of which nothing
    is trained. Hashed words are learned with the model."""
    if not isinstance(config.model.text, TextTower):
        return False
    params, key = abstract(config.model)[1], jax.random.key(0)
    trained, _ = jax.eval_shape(lambda params: config.trainable.split(params, key), params)
    return not any(path[0] == "text" for path, _ in nnx.to_flat_state(trained))


def text_name(config: TextTower, text: nnx.State) -> str:
    """Of a text encoder, by its weights, and by what else decides what it makes of a caption."""
    told = json.dumps(config.reading(PROBES))
    return f"{digest(text)}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def transform(config: VAEConfig | VideoVAEConfig) -> str:
    """What is done with what an encoder says."""
    return f"most likely latents times {config.scaling_factor}"


def _check_encoder(config: TrainConfig, latents: Latents, vae: nnx.State) -> None:
    assert config.model.vae is not None
    told, encoded = transform(config.model.vae), latents.encoded
    if encoded.transform != told:
        raise Refusal(f"data holds {encoded.transform}; this model takes {told}")
    if encoded.vae != name(vae):
        raise Refusal(
            f"data holds latents of another autoencoder, {encoded.vae}; that of the model is "
            f"{name(vae)}: {AGAIN}"
        )


def _check_text(config: object, latents: Latents, text: nnx.State) -> None:
    assert isinstance(config, TextTower)  # as `check` demands
    if latents.encoded.text != (mine := text_name(config, text)):
        raise Refusal(
            f"data holds captions embedded by another text encoder, {latents.encoded.text}; that "
            f"of the model is {mine}: {AGAIN}"
        )


def _latents(source: Source) -> Iterator[Latents]:
    if isinstance(source, Joint):
        yield from _latents(source.videos)
        yield from _latents(source.pictures)
    elif isinstance(source, Latents):
        yield source


def _paths(built: Built) -> list[tuple]:
    return [path for path, _ in nnx.to_flat_state(built.abstract.params)]
