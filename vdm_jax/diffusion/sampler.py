"""Samplers: from noise to a video, down a ladder of levels that may differ by frame.

A sampler is called as (denoise, z, levels, cond, key) -> video at the last level (x0 when that is
clean); `key` is one key, or "b": one for each video. `levels` has a leading step axis: (n+1,),
(n+1, t) or (n+1, b, t). A frame whose level does not change in a step passes through it bit for
bit: this is how known frames, at (1, 0) throughout, stay as given. One scan compiles one step;
`start` and `step` are public for a loop of one's own.

The first-order deterministic step has many names. DDIM with eta = 0, Euler in sigma at alpha = 1
(EDM, Stable Video Diffusion) and Euler in t on a flow schedule are one and the same map,
z' = sigma'/sigma z + (alpha' - alpha sigma'/sigma) x0, written here so that it is finite at
alpha = 0. So there is one `Euler`, and it is also the flow sampler.

| sampler | order | source |
|---|---|---|
| Euler | 1 | Karras et al. 2022, algorithm 2 without its correction |
| Heun | 2 | Karras et al. 2022, algorithms 1 and 2 |
| DDIM(eta) | 1 | Song et al. 2021, eq. 12 and 16 |
| AngularDDIM | 1 | Salimans & Ho 2022, appendix D |
| Ancestral(gamma) | stochastic | Ho et al. 2022, eq. 5 |
| DPMPlusPlus2M(eta) | 2; eta = 1 is 2M-SDE | Lu et al. 2022 (DPM-Solver++), algorithm 2, eq. 18 |

Changing x0 at each step (clipping, guidance, smoothing) is done by wrapping the denoiser.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.precond import noise_in, nonzero

Video = Float[Array, "b t h w c"]


@runtime_checkable
class Sampler(Protocol):
    @property
    def evaluations(self) -> int:
        """How often a step calls the denoiser."""
        ...

    def __call__(
        self, denoise: Denoiser, z: Video, levels: Level, cond: PyTree, key: Array
    ) -> Video: ...


class State(NamedTuple):
    """Between steps: the video at its level, and what a multistep method remembers."""

    z: Video
    memory: PyTree


class Rung(NamedTuple):
    """One step of the ladder: from `now` to `then`, each "b t 1 1 1", with its own key.

    share: 1 / (number of steps).
    """

    now: Level
    then: Level
    key: Array
    share: Float[Array, ""]


class _Walk:
    """The loop that all samplers share. A sampler adds `move`, one step without its rules."""

    @property
    def evaluations(self) -> int:
        return 1

    def start(self, z: Video) -> State:
        """The state before the first step."""
        return State(z, None)

    def move(self, denoise: Denoiser, state: State, rung: Rung, cond: PyTree) -> State:
        raise NotImplementedError

    def step(self, denoise: Denoiser, state: State, rung: Rung, cond: PyTree) -> State:
        """One step, in the dtype of z; frames whose level does not change are left as they are."""
        moved = self.move(denoise, state, rung, cond)
        still = (rung.now.alpha == rung.then.alpha) & (rung.now.sigma == rung.then.sigma)
        return State(jnp.where(still, state.z, moved.z.astype(state.z.dtype)), moved.memory)

    def __call__(
        self, denoise: Denoiser, z: Video, levels: Level, cond: PyTree, key: Array
    ) -> Video:
        def body(state: State, rung: Rung) -> tuple[State, None]:
            return self.step(denoise, state, rung, cond), None

        final, _ = jax.lax.scan(body, self.start(z), rungs(levels, z, key))
        return final.z


def rungs(levels: Level, z: Video, key: Array) -> Rung:
    """All steps of a ladder for `z`, stacked on a leading axis of n.

    Raises Refusal for a ladder that is not (n+1,), (n+1, t) or (n+1, b, t) with n >= 1.
    """
    b, t = z.shape[:2]
    shape = levels.sigma.shape
    if not shape or shape[0] < 2 or shape[1:] not in ((), (t,), (b, t)):
        raise Refusal(
            f"levels of shape {shape} for {b} videos of {t} frames: (steps + 1,), "
            f"(steps + 1, {t}) or (steps + 1, {b}, {t}) is needed, with at least one step"
        )
    wide = shape[:1] + (1,) * (3 - len(shape)) + shape[1:] + (1, 1, 1)
    full = (shape[0], b, t, 1, 1, 1)
    alpha, sigma = (jnp.broadcast_to(part.reshape(wide), full) for part in levels)
    now, then = Level(alpha[:-1], sigma[:-1]), Level(alpha[1:], sigma[1:])
    n = shape[0] - 1
    return Rung(now, then, _split(key, n), jnp.full(n, 1 / n, z.dtype))


@dataclass(frozen=True)
class Churn:
    """Noise put back before each step of Euler or Heun (Karras et al. 2022, algorithm 2).

    amount is EDM's S_churn: sigma grows by the factor 1 + min(amount / num_steps, sqrt(2) - 1)
    where sigma / alpha lies in [sigma_min, sigma_max] (S_tmin, S_tmax); the noise has the
    deviation noise_scale (S_noise).
    """

    amount: float = 40.0
    sigma_min: float = 0.05
    sigma_max: float = 50.0
    noise_scale: float = 1.003

    def __call__(self, z: Video, rung: Rung) -> tuple[Video, Level]:
        """z raised to a noisier level, and that level."""
        alpha, sigma = rung.now
        inside = (sigma >= self.sigma_min * alpha) & (sigma <= self.sigma_max * alpha)
        gamma = jnp.where(inside, jnp.minimum(self.amount * rung.share, 2**0.5 - 1), 0)
        noise = self.noise_scale * _noise(rung.key, z)
        # sqrt((1 + gamma)^2 - 1), without the cancellation
        return z + jnp.sqrt(gamma * (2 + gamma)) * sigma * noise, Level(alpha, (1 + gamma) * sigma)


@dataclass(frozen=True)
class Euler(_Walk):
    """First order. On a flow schedule z' = z + (t' - t) u; at alpha = 1 the sampler of SVD."""

    churn: Churn | None = None

    def move(self, denoise: Denoiser, state: State, rung: Rung, cond: PyTree) -> State:
        z, now = (state.z, rung.now) if self.churn is None else self.churn(state.z, rung)
        x0 = denoise(z, _per_frame(now), cond)
        return State(_first_order(z, x0, now, rung.then), None)


@dataclass(frozen=True)
class Heun(_Walk):
    """Second order, two evaluations a step: the trapezium rule for z / alpha over sigma / alpha."""

    churn: Churn | None = None

    @property
    def evaluations(self) -> int:
        return 2

    def move(self, denoise: Denoiser, state: State, rung: Rung, cond: PyTree) -> State:
        z, now = (state.z, rung.now) if self.churn is None else self.churn(state.z, rung)
        then = rung.then
        x0 = denoise(z, _per_frame(now), cond)
        ahead = _first_order(z, x0, now, then)
        change = denoise(ahead, _per_frame(then), cond) - x0
        # Karras et al. 2022, algorithm 1, line 8, with (z/a - x0) / (s/a) for the slope d: the
        # mean of the slopes adds (s a' / (a s') - 1) / 2 times the change of x0.
        both = (now.alpha > 0) & (then.sigma > 0)
        ratio = now.sigma * then.alpha / nonzero(now.alpha * then.sigma)
        return State(ahead + jnp.where(both, then.alpha * (ratio - 1) / 2, 0) * change, None)


@dataclass(frozen=True)
class DDIM(_Walk):
    """eta = 0: deterministic. eta = 1: DDPM's ancestral sampling, also called Euler ancestral."""

    eta: float = 0.0

    def move(self, denoise: Denoiser, state: State, rung: Rung, cond: PyTree) -> State:
        z, (now, then, key, _) = state.z, rung
        x0 = denoise(z, _per_frame(now), cond)
        if self.eta == 0:
            return State(_first_order(z, x0, now, then), None)
        fresh = self.eta**2 * (1 - _shrink(now, then) ** 2)  # Song et al. eq. 16 over sigma'^2
        eps = (z - now.alpha * x0) / nonzero(now.sigma)
        noise = _noise(key, z)
        mixed = jnp.sqrt(1 - fresh) * eps + jnp.sqrt(fresh) * noise
        return State(then.alpha * x0 + then.sigma * mixed, None)  # eq. 12


@dataclass(frozen=True)
class AngularDDIM(_Walk):
    """DDIM as a rotation by the change of phi = atan2(sigma, alpha) in the plane of z and v."""

    def move(self, denoise: Denoiser, state: State, rung: Rung, cond: PyTree) -> State:
        z, (now, then, _, _) = state.z, rung
        radius = jnp.hypot(now.alpha, now.sigma)
        unit = z / radius
        x0 = denoise(z, _per_frame(now), cond)
        v = (now.alpha / radius * unit - x0) / nonzero(now.sigma / radius)
        turn = jnp.arctan2(then.sigma, then.alpha) - jnp.arctan2(now.sigma, now.alpha)
        turned = jnp.cos(turn) * unit + jnp.sin(turn) * v
        return State(jnp.hypot(then.alpha, then.sigma) * turned, None)


@dataclass(frozen=True)
class Ancestral(_Walk):
    """The reverse of the noising, drawn step by step.

    gamma: the variance of a step, from that of q(z'|z, x0), 0, to that of q(z|z'), 1, by the
    logarithm. With 0 it is DDIM(eta=1).
    """

    gamma: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < 1:
            raise Refusal(f"gamma {self.gamma}: it must be at least 0 and below 1")

    def move(self, denoise: Denoiser, state: State, rung: Rung, cond: PyTree) -> State:
        z, (now, then, key, _) = state.z, rung
        x0 = denoise(z, _per_frame(now), cond)
        total = nonzero(now.sigma**2)
        kept = now.alpha / nonzero(then.alpha)  # alpha_{t|s}
        added = jnp.maximum(now.sigma**2 - (kept * then.sigma) ** 2, 0)  # sigma^2_{t|s}
        mean = kept * then.sigma**2 / total * z + then.alpha * added / total * x0
        low = added * then.sigma**2 / total
        variance = low ** (1 - self.gamma) * added**self.gamma  # Ho et al. 2022, eq. 5
        noise = _noise(key, z)
        return State(mean + jnp.sqrt(variance) * noise, None)


@dataclass(frozen=True)
class DPMPlusPlus2M(_Walk):
    """DPM-Solver++(2M): second order, one evaluation a step; eta = 1 makes it 2M-SDE.

    The first step and a step to a clean level are of first order.
    """

    eta: float = 0.0

    def start(self, z: Video) -> State:
        return State(z, (jnp.zeros_like(z), jnp.zeros((*z.shape[:2], 1, 1, 1), z.dtype)))

    def move(self, denoise: Denoiser, state: State, rung: Rung, cond: PyTree) -> State:
        z, (now, then, key, _) = state.z, rung
        before, h_before = state.memory
        x0 = denoise(z, _per_frame(now), cond)
        shrink = _shrink(now, then)
        h = -jnp.log(shrink)  # step in half log-SNR; inf from pure noise or to a clean frame
        usable = (h_before > 0) & (shrink > 0)
        extrapolation = jnp.where(usable, h / (2 * jnp.where(usable, h_before, 1)), 0)
        ahead = x0 + extrapolation * (x0 - before)  # Lu et al. algorithm 2, line 6
        keep = then.sigma / nonzero(now.sigma) * shrink**self.eta
        moved = keep * z + then.alpha * (1 - shrink ** (1 + self.eta)) * ahead
        if self.eta != 0:
            noise = _noise(key, z)
            moved += then.sigma * jnp.sqrt(1 - shrink ** (2 * self.eta)) * noise
        return State(moved, (x0.astype(z.dtype), h.astype(z.dtype)))


def invert(denoise: Denoiser, x0: Video, levels: Level, cond: PyTree) -> Video:
    """DDIM walked upwards: the noise at levels[0] from which DDIM returns to `x0`, to first order.

    levels: the ladder of the sampler, noisiest first. A clean frame shows no noise, so from a
    clean level the noise is estimated one rung higher, at alpha' x0.
    """

    def body(z: Video, rung: Rung) -> tuple[Video, None]:
        now, then, _, _ = rung
        clean = now.sigma == 0
        at = Level(*(jnp.where(clean, b, a) for a, b in zip(now, then, strict=True)))
        seen = jnp.where(clean, then.alpha / nonzero(now.alpha) * z, z)
        guess = denoise(seen, _per_frame(at), cond)
        eps = noise_in(seen, guess, _per_frame(at))
        moved = then.alpha * jnp.where(clean, z, guess) + then.sigma * eps
        still = (now.alpha == then.alpha) & (now.sigma == then.sigma)
        return jnp.where(still, z, moved.astype(z.dtype)), None

    upwards = Level(*(jnp.flip(part, 0) for part in levels))
    z, _ = jax.lax.scan(body, x0, rungs(upwards, x0, jax.random.key(0)))
    return z


def _split(key: Array, steps: int) -> Array:
    """Keys "n" of the steps, or "n b" when there is one key for each video."""
    if key.ndim == 0:
        return jax.random.split(key, steps)
    return jax.vmap(lambda row: jax.random.split(row, steps), out_axes=1)(key)


def _noise(key: Array, z: Video) -> Video:
    """Unit noise; with one key for each video, a video's noise does not depend on the others."""
    if key.ndim == 0:
        return jax.random.normal(key, z.shape, z.dtype)
    return jax.vmap(lambda row: jax.random.normal(row, z.shape[1:], z.dtype))(key)


def _first_order(z: Video, x0: Video, now: Level, then: Level) -> Video:
    ratio = then.sigma / nonzero(now.sigma)
    return ratio * z + (then.alpha - now.alpha * ratio) * x0


def _shrink(now: Level, then: Level) -> Array:
    """Factor, 0 to 1, by which sigma / alpha falls; 0 from pure noise and to a clean frame."""
    return jnp.minimum(now.alpha * then.sigma / nonzero(now.sigma * then.alpha), 1)


def _per_frame(level: Level) -> Level:
    return Level(*(part[..., 0, 0, 0] for part in level))
