"""Sound: files to arrays, whatever they claim to be, and arrays into the MP4 of a film.

Read are WAV, FLAC, Ogg, MP3, M4A and the sound of videos, by the rules of core/container.py: the
first bytes pin the demuxer, only plain local files are opened, and no more is decoded than is asked
for. Written is AAC.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from jaxtyping import Float

from vdm_jax.core.container import Limits
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason, sniff_sound_file

RATE = 44_100
"""Samples a second, of all sound in memory."""

LAYOUTS = {1: "mono", 2: "stereo"}
BIT_RATE = 192_000  # of AAC
_CHANNELS = 64
_RATES = (1_000, 768_000)


@dataclass(frozen=True, eq=False)
class Sound:
    """Samples in -1..1, `RATE` a second; one channel, or left and right."""

    samples: Float[np.ndarray, "c n"]

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / RATE

    @property
    def mono(self) -> Float[np.ndarray, " n"]:
        return self.samples.mean(axis=0)


def read(
    path: str | os.PathLike,
    *,
    start: float | int,
    seconds: float | int,
    limits: Limits | None = None,
) -> Sound:
    """Sound from `start`, at most `seconds` long: shorter where the file ends.

    path: a file of sound, or a video. More than two channels are mixed to two. Raises Refusal if
    it cannot be read, is damaged, has no sound, or is over `limits.seconds` or `limits.streams`.
    """
    path, limits = Path(path), limits or Limits()
    if not (start >= 0 and seconds > 0 and start + seconds <= limits.seconds):
        raise Refusal(
            f"{path}: sound is read from 0 to {limits.seconds:g} s; asked for was {seconds:g} s "
            f"from {start:g} s"
        )
    demuxer = sniff_sound_file(path)
    options = {"protocol_whitelist": "file", "max_pixels": str(2 * limits.pixels)}
    try:
        with av.open(
            os.path.abspath(path), "r", demuxer, options=options, metadata_errors="replace"
        ) as file:
            stream = _stream(path, file, limits)
            channels = min(2, stream.codec_context.channels)
            first, last = round(start * RATE), round((start + seconds) * RATE)
            kept = list(_within(_decoded(file, stream, channels), first, last))
    except (av.FFmpegError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise Refusal(f"{path}: cannot be decoded: {reason(error)}") from error
    samples = np.concatenate([np.zeros((channels, 0), np.float32), *kept], axis=1)
    if not np.isfinite(samples).all():
        raise Refusal(f"{path}: holds samples that are no numbers")
    return Sound(samples.clip(-1, 1))


def _stream(path: Path, file: InputContainer, limits: Limits) -> AudioStream:
    """The first stream of sound, of a sane rate."""
    count = len(file.streams.video) + len(file.streams.audio)
    if count > limits.streams:
        raise Refusal(f"{path}: has {count} streams, over {limits.streams}")
    stream = next((s for s in file.streams.audio if s.codec_context is not None), None)
    if stream is None:
        raise Refusal(f"{path}: has no sound")
    channels, rate = stream.codec_context.channels, stream.codec_context.sample_rate
    if not 1 <= channels <= _CHANNELS or not _RATES[0] <= rate <= _RATES[1]:
        raise Refusal(f"{path}: states {channels} channels of {rate} samples a second")
    return stream


def _decoded(
    file: InputContainer, stream: AudioStream, channels: int
) -> Iterator[Float[np.ndarray, "c n"]]:
    resampler = av.AudioResampler("fltp", LAYOUTS[channels], RATE)
    for packet in file.demux(stream):
        if packet.is_corrupt:
            raise ValueError("it breaks off or is damaged")
        for frame in packet.decode():
            frame.pts = None  # counted, not stamped
            yield from (piece.to_ndarray() for piece in resampler.resample(frame))
    yield from (piece.to_ndarray() for piece in resampler.resample(None))


def _within(
    pieces: Iterator[Float[np.ndarray, "c n"]], first: int, last: int
) -> Iterator[Float[np.ndarray, "c m"]]:
    """Samples first … last - 1."""
    begin = 0
    for piece in pieces:
        if begin >= last:
            return
        yield piece[:, max(0, first - begin) : last - begin]
        begin += piece.shape[1]


class Track:
    """Sound on its way into an MP4 that is being written, beside the pictures."""

    def __init__(self, file: OutputContainer, sound: Sound):
        """Add the stream; before the first packet of any other is muxed."""
        self._file, self._sound, self._done = file, sound, 0
        self._layout = LAYOUTS[len(sound.samples)]
        self._stream = file.add_stream("aac", rate=RATE, layout=self._layout)
        self._stream.bit_rate = BIT_RATE

    def until(self, seconds: float) -> None:
        """Mux what is heard before this time, in whole pieces of the encoder."""
        size = self._stream.codec_context.frame_size or 1024
        samples = self._sound.samples
        while self._done < min(samples.shape[1], round(seconds * RATE)):
            self._encode(samples[:, self._done : self._done + size])
            self._done += size

    def _encode(self, samples: Float[np.ndarray, "c n"]) -> None:
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples, np.float32), format="fltp", layout=self._layout
        )
        frame.rate, frame.pts = RATE, self._done
        self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._file.mux(self._stream.encode(None))
