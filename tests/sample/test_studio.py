"""Orders of one shape share a program and are each what they would be alone; a drawing stops."""

import gc
import time
import weakref
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from flax import nnx
from jax import monitoring
from tasks import test_completion as completion
from tasks import test_stable_text as stable_text
from tasks import test_stable_video as stable_video
from tasks.test_tasks import IMAGE, TEXT, WITH, WITHOUT, built

from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.sampler import Heun
from vdm_jax.nn.pieces import Chunked
from vdm_jax.sample.pipeline import Pipeline
from vdm_jax.sample.studio import Order, Shape, Studio
from vdm_jax.tasks.task import Pretrained, tuned

ALONE = meshes.MeshConfig().build_on(jax.devices()[:1])
RNG = np.random.default_rng(0)


def picture(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


MODELS = {
    "text": (WITHOUT, tuned(TEXT, {"guidance_scale": 3.0})),
    "image": (WITH, tuned(IMAGE, {"sampler": Heun()})),
    "stable video": (stable_video.MODEL, stable_video.TASK),
    "stable text": (stable_text.MODEL, stable_text.TASK),
    "completion": (completion.PIXELS, replace(completion.TASK, given=(0,))),
    "between": (stable_text.NINE, stable_text.BETWEEN),
}
ORDERS = {
    "text": [
        Order(prompt="red", seed=7),
        Order(prompt="blue", seed=2**32 - 1, settings={"guidance_scale": 1.5, "fps": 3.0}),
        Order(prompt="up", seed=8, settings={"guidance_scale": 0.0}),
    ],
    "image": [
        Order(prompt="red", seed=4, picture=picture(20, 20), settings={"guidance_scale": 2.5}),
        Order(prompt="up", seed=5, settings={"guidance_scale": 2.0}),
        Order(prompt="red", seed=6, picture=picture(9, 9), settings={"guidance_scale": 5.0}),
    ],
    "stable video": [
        Order(prompt="not read", seed=3, picture=picture(20, 30)),
        Order(seed=9, picture=picture(16, 24), settings={"motion_bucket_id": 40, "fps": 20}),
        Order(
            seed=6, picture=picture(32, 48),
            settings={
                "noise_aug_strength": 0.5, "min_guidance_scale": 2, "max_guidance_scale": 1.5,
            },
        ),
    ],
    "stable text": [
        Order(prompt="red", seed=1),
        Order(prompt="blue", seed=2, settings={"motion_bucket_id": 9, "guidance_scale": 5.0}),
    ],
    "completion": [
        Order(prompt="red", seed=1, picture=picture(8, 8), settings={"guidance_scale": 3.0}),
        Order(prompt="red", seed=2, settings={"guidance_scale": 4.0}),
    ],
}  # fmt: skip
FAMILIES = pytest.mark.parametrize("name", ORDERS)


def going_on(done, total):
    return True


def saved(folder, model, task):
    weights = nnx.state(built(model), nnx.Param)
    checkpoint.save_weights(folder, configs.to_json(Pretrained(model, task)), weights, {})
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def folder(home):
    """The directory of a model of these, by name."""
    return cache(lambda name: saved(home / name.replace(" ", "_"), *MODELS[name]))


@pytest.fixture(scope="module")
def studio(folder):
    """One of each model, with its weights."""

    @cache
    def made(name):
        studio = Studio(folder(name), mesh=ALONE, batch_size=4)
        studio.load()
        return studio

    return made


@pytest.fixture
def compilations():
    """How many programs XLA has compiled, or read from a cache of them."""
    seen = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            seen.append(event)

    monitoring.register_event_duration_secs_listener(listen)
    yield seen
    monitoring.unregister_event_duration_listener(listen)


def alone(folder, name, order):
    """What `Pipeline` makes of an order, in as large a batch."""
    more = {"decoding": Chunked(8)} if name == "stable video" else {}
    pipeline = Pipeline(folder(name), mesh=ALONE, batch_size=4, **order.settings, **more)
    pictures = None if order.picture is None else [order.picture]
    words = None if MODELS[name][0].text is None else [order.prompt]
    video = pipeline(pictures, words, seed=order.seed)[0]
    return np.round(video * 255).astype(np.uint8)


@FAMILIES
def test_orders_drawn_together_have_the_bits_of_each_drawn_alone(folder, studio, name):
    orders = ORDERS[name]
    for order in orders:
        studio(name).check(order)
    videos = studio(name).draw(orders, going_on)
    np.testing.assert_array_equal(videos[-1], alone(folder, name, orders[-1]))
    turned = studio(name).draw(orders[::-1], going_on)
    np.testing.assert_array_equal(turned[::-1], videos)
    assert all((a != b).any() for a, b in zip(videos[1:], videos[:-1], strict=True))


@FAMILIES
def test_nothing_but_the_shape_of_an_order_compiles(studio, compilations, name):
    drawer, first = studio(name), ORDERS[name][0]
    drawer.draw(ORDERS[name], going_on)
    del compilations[:]
    other = replace(first, seed=first.seed + 1, prompt="down", settings={**first.settings})
    for setting, value in {
        "fps": 11, "motion_bucket_id": 3, "noise_aug_strength": 0.3, "guidance_scale": 9.0,
        "max_guidance_scale": 4.5,
    }.items():  # fmt: skip
        if setting in drawer.facts()["defaults"]:
            other.settings[setting] = value
    drawer.draw([other, ORDERS[name][1]], going_on)
    assert compilations == []
    assert [(made.shape, made.batch_size) for made in drawer.compiled] == [(drawer.shape(first), 4)]
    jax.jit(lambda x: x + len(compilations))(np.float32(1))
    assert len(compilations) == 1  # they would have been seen


def test_one_order_takes_the_smaller_program_and_the_fewest_used_is_forgotten(folder):
    studio = Studio(folder("text"), mesh=ALONE, batch_size=3, kept=2)
    studio.load()
    shape = studio.shape(ORDERS["text"][0])
    assert shape == Shape(3, 8, 8, 2, guided=True)
    plain = replace(shape, guided=False)
    made = studio.warm(shape)
    assert (made.shape, made.batch_size) == (shape, 1) and made.seconds > 0
    studio.draw(ORDERS["text"][:1], going_on)
    assert [one.batch_size for one in studio.compiled] == [1]
    program = weakref.ref(studio._programs[shape, 1])
    studio.draw(ORDERS["text"], going_on)
    studio.warm(plain, 2)
    assert [one[:2] for one in studio.compiled] == [(shape, 3), (plain, 3)]
    gc.collect()
    assert program() is None
    for count in (0, 4):
        with pytest.raises(Refusal, match=f"from 1 to 3 videos .* got {count}"):
            studio.warm(shape, count)


def test_more_than_fit_are_drawn_in_several_rounds(folder, studio):
    orders = [Order(prompt="red", seed=seed) for seed in range(5)]
    said = []
    videos = studio("text").draw(orders, lambda *step: said.append(step) or True)
    assert said == [(0, 4), (1, 4), (2, 4), (2, 4), (3, 4), (4, 4)]
    np.testing.assert_array_equal(videos[4], alone(folder, "text", orders[4]))


def test_progress_is_told_in_steps_not_in_evaluations(studio):
    said = []
    studio("image").draw(ORDERS["image"], lambda *step: said.append(step) or True)
    assert said == [(0, 2), (0, 2), (1, 2), (1, 2), (2, 2)]  # Heun's two a step


@pytest.mark.parametrize("mesh", [ALONE, meshes.MeshConfig().build()], ids=["one", "eight"])
def test_a_stopped_drawing_calls_the_network_no_more(folder, monkeypatch, mesh):
    """By a network that says when it is called and takes its time."""
    from vdm_jax.models.vdm_unet import VDMUNet

    calls, network = [], VDMUNet.__call__

    def slow(self, z, c_noise, cond):
        def called(x):
            time.sleep(0.02)
            calls.append(1)

        jax.debug.callback(called, z[0, 0, 0, 0, 0])
        return network(self, z, c_noise, cond)

    monkeypatch.setattr(VDMUNet, "__call__", slow)
    studio = Studio(folder("image"), mesh=mesh, batch_size=2)
    studio.load()
    orders = [Order(seed=seed, settings={"num_steps": 6}) for seed in range(2)]
    assert studio.draw(orders, going_on) is not None
    jax.effects_barrier()
    assert len(calls) == 12
    for stop in (0, 2, 5):
        del calls[:]
        asked = []

        def until(done, total, stop=stop, asked=asked):
            asked.append(done)
            return done < stop

        assert studio.draw(orders, until) is None
        jax.effects_barrier()
        assert len(calls) == 2 * stop and asked[-1] == stop and asked.count(stop) == 1


@pytest.mark.parametrize("name", ["text", "stable text"])
def test_a_drawing_that_is_stopped_at_its_end_is_none_and_leaves_no_trace(studio, name):
    videos = studio(name).draw(ORDERS[name], going_on)
    assert studio(name).draw(ORDERS[name], lambda done, total: done < total) is None
    np.testing.assert_array_equal(studio(name).draw(ORDERS[name], going_on), videos)


def test_what_on_step_raises_stops_the_drawing_and_is_raised(studio):
    def fails(done, total):
        raise KeyError(done)

    with pytest.raises(KeyError, match="0"):
        studio("text").draw(ORDERS["text"], fails)


def test_a_mesh_of_eight_devices_draws_the_same(folder, studio):
    spread = Studio(folder("text"), mesh=meshes.MeshConfig().build(), batch_size=2)
    spread.load()
    shape = spread.shape(ORDERS["text"][0])
    assert spread.at_once(shape) == 8 and studio("text").at_once(shape) == 4
    videos = spread.draw(ORDERS["text"], going_on)
    near = studio("text").draw(ORDERS["text"], going_on)
    assert np.abs(videos.astype(int) - near).max() <= 1  # a step of rounding
    assert spread.draw(ORDERS["text"], lambda done, total: done < 1) is None
    assert [made.batch_size for made in spread.compiled] == [8]


def test_a_video_that_is_no_number_is_refused(folder):
    studio = Studio(folder("text"), mesh=ALONE, batch_size=1)
    studio.load()
    studio._params = jax.tree.map(lambda leaf: leaf * np.nan, studio._params)
    with pytest.raises(Refusal, match="not finite"):
        studio.draw(ORDERS["text"][:1], going_on)


def test_facts_say_what_a_client_must_know(folder):
    told = {name: Studio(folder(name), mesh=ALONE).facts() for name in ORDERS}
    assert {name: (f["kind"], f["takes_prompt"], f["picture"]) for name, f in told.items()} == {
        "text": ("text-to-video", True, "none"),
        "image": ("image-to-video", True, "optional"),
        "stable video": ("image-to-video", False, "required"),
        "stable text": ("text-to-video", True, "none"),
        "completion": ("image-to-video", True, "optional"),
    }
    assert told["stable video"]["defaults"] == {
        "num_frames": 3, "width": 24, "height": 16, "fps": 7.0, "num_inference_steps": 2,
        "seed": None, "min_guidance_scale": 1.0, "max_guidance_scale": 3.0,
        "motion_bucket_id": 127, "noise_aug_strength": 0.02,
    }  # fmt: skip
    assert told["stable text"]["defaults"]["guidance_scale"] == 3.0
    assert told["stable text"]["defaults"]["motion_bucket_id"] == 127
    assert set(told["text"]["defaults"]) == {
        "num_frames", "width", "height", "fps", "num_inference_steps", "seed", "guidance_scale"
    }  # fmt: skip
    assert [f["multiple"] for f in told.values()] == [2, 2, 2, 2, 2]
    assert {f["multiple_of_frames"] for f in told.values()} == {1}


def test_models_of_pictures_and_of_latents_of_several_frames_say_so(home):
    still = saved(home / "still", WITHOUT, tuned(TEXT, {"num_frames": 1}))
    assert Studio(still, mesh=ALONE).facts()["kind"] == "text-to-image"
    folder = saved(home / "several", completion.SEVERAL, completion.SEVERAL_TASK)
    several = Studio(folder, mesh=ALONE)
    told = several.facts()
    assert (told["kind"], told["picture"]) == ("text-to-video", "none")
    assert told["multiple_of_frames"] == 2
    with pytest.raises(Refusal, match="takes multiples of 2"):
        several.check(Order(settings={"num_frames": 5}))


@pytest.mark.parametrize(
    ("name", "order", "wanted"),
    [
        ("text", Order(seed=-1), r"seed must lie in \[0, 2\^32\), got -1"),
        ("text", Order(picture=picture(8, 8)), "takes no picture"),
        ("text", Order(settings={"height": 9}), "multiples of 2"),
        ("text", Order(settings={"motion_bucket_id": 9}), "no setting motion_bucket_id"),
        ("text", Order(settings={"process": 9}), "no setting process"),
        ("text", Order(settings={"num_steps": 2.5}), "num_steps must be a whole number"),
        ("text", Order(settings={"num_steps": 0}), "num_steps must be at least 1"),
        ("text", Order(settings={"guidance_scale": float("nan")}), "guidance_scale not below 0"),
        ("image", Order(picture=np.zeros((0, 8, 3), np.uint8)), "picture is empty"),
        ("stable video", Order(prompt="a cat"), "give it one"),
        ("stable video", Order(picture=picture(9, 9), settings={"fps": 0}), "fps"),
        ("stable video", Order(picture=picture(9, 9), settings={"guidance_scale": 2}), "no sett"),
        (
            "stable video",
            Order(picture=picture(9, 9), settings={"height": 16384, "width": 16384}),
            "GB of memory, there are",
        ),
    ],
)  # fmt: skip
def test_orders_that_cannot_be_drawn_are_refused_without_the_weights(folder, name, order, wanted):
    with pytest.raises(Refusal, match=wanted) as refusal:
        Studio(folder(name), mesh=ALONE).check(order)
    assert "\n" not in str(refusal.value)


def test_models_that_take_more_than_a_prompt_and_a_picture_are_refused(folder, home):
    with pytest.raises(Refusal, match="takes 2 pictures a video"):
        Studio(folder("between"), mesh=ALONE)
    deaf = saved(home / "deaf", replace(WITHOUT, text=None), TEXT)
    with pytest.raises(Refusal, match="has no text encoder"):
        Studio(deaf, mesh=ALONE)
    with pytest.raises(Refusal, match="no directory"):
        Studio(home / "none", mesh=ALONE)


def test_orders_of_two_shapes_and_drawing_without_weights_are_refused(folder):
    studio = Studio(folder("text"), mesh=ALONE)
    unguided = Order(settings={"guidance_scale": 1})
    with pytest.raises(Refusal, match="orders of one shape"):
        studio.draw([ORDERS["text"][0], unguided], going_on)
    with pytest.raises(Refusal, match="call load"):
        studio.draw([unguided], going_on)
