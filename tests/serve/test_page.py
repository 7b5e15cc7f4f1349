"""The page in a real browser, Debian's Chromium, against a real server."""

import base64
import re
from pathlib import Path

import pytest
from serve.served import picture

from vdm_jax.core import video

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser: {CHROMIUM} is missing"),
]
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
DROP = """([bytes, name, type]) => {
    const data = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([data], name, { type }));
    for (const kind of ["dragenter", "dragover", "drop"]) {
        document.querySelector("#gallery").dispatchEvent(
            new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }
}"""
WATCH = """() => {
    window.states = [];
    const note = () => {
        const card = document.querySelector(".job");
        const state = card && card.dataset.status;
        if (state && state !== window.states.at(-1)) window.states.push(state);
    };
    new MutationObserver(note).observe(document.querySelector("#jobs"),
        { childList: true, subtree: true, attributes: true, characterData: true });
}"""
VIOLATIONS = """window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
    window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));"""
VALUES = "() => [...document.querySelectorAll('input, textarea')].map((each) => each.value)"
STORED = "() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }])"
SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
DEAD = """(url) => new Promise((done) => {
    const image = new Image();
    image.onload = () => done(false);
    image.onerror = () => done(true);
    image.src = url;
})"""


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, served):
    """Opens the page at a width; what it said and asked for is in `said` and `asked`."""
    contexts = []

    def open_at(width="desktop"):
        wide, high = WIDTHS[width]
        context = chromium.new_context(viewport={"width": wide, "height": high})
        contexts.append(context)
        context.set_default_timeout(60_000)
        context.add_init_script(VIOLATIONS)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda line: page.said.append(line.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(served.url)
        return page

    yield open_at
    for context in contexts:
        context.close()


def sign_in(page, key):
    page.fill("#key", key)
    page.press("#key", "Enter")
    page.wait_for_selector("#go:not(:disabled)")


def drop(page, content, name="first.png", kind="image/png"):
    page.evaluate(DROP, [base64.b64encode(content).decode(), name, kind])


def order(page, prompt, **knobs):
    """Fill in the form and send it: the id of the new video."""
    page.fill("#prompt", prompt)
    if knobs and not page.locator("#knobs").is_visible():
        page.click("#settings summary")
    for name, value in knobs.items():
        page.fill("#seed" if name == "seed" else f"#knob-{name}", str(value))
    with page.expect_response(lambda reply: reply.request.method == "POST") as reply:
        page.press("#prompt", "Control+Enter")
    assert reply.value.status == 200, reply.value.text()
    return reply.value.json()["id"]


@pytest.mark.parametrize("width", WIDTHS)
def test_from_the_key_to_the_last_video(opened, served, tmp_path, width):
    page = opened(width)
    page.check("#stay")
    sign_in(page, served.key)
    drop(page, picture(side=40))
    page.wait_for_selector("#picture:not([hidden])")
    page.evaluate(WATCH)
    steps = 5 + list(WIDTHS).index(width)  # a program of its own, so that it takes a while
    name = order(page, "A red circle <b>moves</b>", num_inference_steps=steps, seed=11, fps=4)
    page.wait_for_selector(f".tile[data-id={name}] img.here")
    assert page.evaluate("() => states") == ["queued", "in_progress"]
    made = served.get(f"/v1/videos/{name}")
    assert (made["prompt"], made["seed"], made["fps"]) == ("A red circle <b>moves</b>", 11, 4)
    assert made["num_inference_steps"] == steps and made["has_input_reference"]

    page.click(f".tile[data-id={name}]")
    page.wait_for_function("() => document.querySelector('#player').currentTime > 0")
    assert page.evaluate("() => document.querySelector('#player').videoWidth") == 16
    assert page.inner_text("#view-prompt") == "A red circle <b>moves</b>"
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "a.mp4")
    assert re.fullmatch(r"a-red-circle-b-moves-b-\w{6}\.mp4", download.value.suggested_filename)
    clip = video.read(tmp_path / "a.mp4")
    assert clip.frames.shape == (4, 16, 16, 3) and clip.fps == 4

    page.fill("#remix-prompt", "A blue circle")
    with page.expect_response(lambda reply: reply.url.endswith("/remix")) as reply:
        page.click("#remix-go")
    again = reply.value.json()
    assert (again["remixed_from_video_id"], again["prompt"]) == (name, "A blue circle")
    page.wait_for_selector(f".tile[data-id={again['id']}] img.here")

    page.focus(f".tile[data-id={again['id']}]")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.dataset.id") == name
    page.keyboard.press("Enter")
    page.wait_for_selector("#player.here")
    page.click("#delete")
    page.click("#delete-yes")
    page.wait_for_selector(f".tile[data-id={name}]", state="detached")
    assert served.call("GET", f"/v1/videos/{name}")[0] == 404

    assert page.evaluate(SIDEWAYS) <= 0
    page.reload()
    page.wait_for_selector(".tile img.here")
    old = page.locator(".tile img.here").first.get_attribute("src")
    page.click("#sign-out")
    page.wait_for_selector("#hello:not([hidden])")
    assert page.evaluate(STORED) == "[{},{}]"
    assert served.key not in page.content() + "".join(page.evaluate(VALUES)) + page.url
    assert page.locator(".tile, .job").count() == 0
    assert page.said == []
    assert page.evaluate("() => violations") == []
    ours = served.url, "blob:", "data:"
    assert [url for url in page.asked if not url.startswith(ours)] == []
    assert all(served.key not in url for url in page.asked)
    assert page.evaluate(DEAD, old)


def test_a_key_that_is_none(opened, served):
    page = opened()
    page.fill("#key", served.key[:-1] + "~")
    page.press("#key", "Enter")
    page.wait_for_selector("#key-wrong:not([hidden])")
    assert page.inner_text("#key-wrong") == "This key is not valid."
    assert page.evaluate(STORED) == "[{},{}]"


def test_a_key_that_ends_while_it_is_used(opened, served):
    page = opened()
    key = served.keys("create", "--name", "short")
    sign_in(page, key)
    served.keys("revoke", "--key", key.split("_")[1])
    page.evaluate("() => dispatchEvent(new Event('online'))")  # which makes it ask at once
    page.wait_for_selector("#hello:not([hidden])")
    assert page.inner_text("#key-wrong") == "This key is no longer valid. Sign in again."
    assert page.evaluate(STORED) == "[{},{}]"


def test_faults_stand_beside_what_they_are_about(opened, served):
    page = opened()
    sign_in(page, served.key)
    drop(page, b"GIF89a", "a.gif", "image/gif")
    assert "PNG, JPEG or WebP" in page.inner_text("#picture-field .wrong")
    drop(page, b"no picture at all")
    page.wait_for_selector("#picture-field .wrong >> text=cannot be read")
    page.click("#settings summary")
    page.fill("#knob-num_inference_steps", "101")
    page.click("#settings summary")
    page.press("#prompt", "Control+Enter")
    wrong = page.locator("[data-param=num_inference_steps] .wrong")
    assert wrong.inner_text() == "At most 100, please." and wrong.is_visible()
    page.fill("#knob-num_inference_steps", "2")
    page.fill("#knob-guidance_scale", "1000")  # which only the server knows to be too much
    page.press("#prompt", "Control+Enter")
    wrong = page.locator("[data-param=guidance_scale] .wrong")
    wrong.wait_for()
    assert "1000" in wrong.inner_text()


def test_an_answer_that_is_lost_makes_one_video(opened, served):
    page = opened()
    sign_in(page, served.key)
    tries = []

    def lose_the_first(route):
        tries.append(route.request.headers["idempotency-key"])
        if len(tries) > 1:
            route.continue_()
            return
        assert route.fetch().status == 200  # the server has taken it
        route.abort()

    page.route("**/v1/videos", lambda route: (
        lose_the_first(route) if route.request.method == "POST" else route.continue_()
    ))  # fmt: skip
    page.fill("#prompt", "once and no more")
    page.dblclick("#go")
    page.wait_for_selector("#waiting >> text=Trying again in")
    page.wait_for_selector(".tile, .job")
    page.wait_for_function("() => !document.querySelector('#go').disabled")
    assert len(tries) == 2 and len(set(tries)) == 1
    listed = served.get("/v1/videos?limit=100")["data"]
    assert [each["prompt"] for each in listed].count("once and no more") == 1


def test_no_picture_is_fetched_before_it_comes_near(opened, served):
    for number in range(16):
        served.create(prompt=f"tile {number}", seed=number)
    served.until(lambda: all(
        each["status"] == "completed" for each in served.get("/v1/videos?limit=100")["data"]
    ))  # fmt: skip
    page = opened("phone")
    sign_in(page, served.key)
    page.wait_for_selector(".tile img.here")
    assert page.evaluate(SIDEWAYS) <= 0
    fetched = sum("variant=thumbnail" in url for url in page.asked)
    assert 0 < fetched < page.locator(".tile").count() - 3
    page.locator(".tile").last.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('.tile:last-of-type img').src")
