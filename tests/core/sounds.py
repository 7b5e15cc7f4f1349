"""Sounds that tests listen to, and files of them."""

import wave
from pathlib import Path

import av
import numpy as np

RATE = 44_100


def silence(seconds):
    return np.zeros(round(seconds * RATE))


def tone(seconds, pitch=440.0):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)


def clicks(seconds, at, loud=0.8):
    """Bursts of noise of 10 ms at these times."""
    samples, burst = silence(seconds), np.arange(RATE // 100)
    shape = np.random.default_rng(0).uniform(-1, 1, len(burst)) * np.exp(-burst / 100)
    for time in at:
        begin = round(time * RATE)
        samples[begin : begin + len(burst)] += loud * shape
    return samples


def wav(path: Path, samples) -> Path:
    """samples: "n", or "n c"."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def encoded(path: Path, samples, codec: str, *, rate=RATE, layout="mono") -> Path:
    """As another program would write it, in the container of the suffix."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.atleast_2d(samples).astype(np.float32), format="fltp", layout=layout
        )
        frame.rate = rate
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path
