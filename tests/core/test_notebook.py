"""What notebooks need beside the commands: forms, lines as they come, videos on the page."""

import re
import signal
import subprocess
import sys
import threading
import time

import IPython.display
import numpy as np
import pytest

from vdm_jax.core import notebook, video
from vdm_jax.core.refusal import Refusal


def test_the_environment_overrides_a_form(monkeypatch):
    monkeypatch.setenv("VDM_JAX_STEPS", "7")
    monkeypatch.setenv("VDM_JAX_SMOKE", "1")
    monkeypatch.setenv("VDM_JAX_SCALE", "2")
    form = notebook.form(steps=510, smoke=False, scale=1.5, caption="a red circle")
    assert vars(form) == {"steps": 7, "smoke": True, "scale": 2.0, "caption": "a red circle"}
    assert isinstance(form.scale, float)
    for name, value in (("STEPS", "many"), ("SMOKE", "perhaps")):
        monkeypatch.setenv(f"VDM_JAX_{name}", value)
        with pytest.raises(Refusal, match=value):
            notebook.form(steps=510, smoke=False)
        monkeypatch.delenv(f"VDM_JAX_{name}")


def test_results_go_to_drive_where_it_is_mounted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebook, "DRIVE", tmp_path / "drive")
    assert notebook.results("a").resolve() == tmp_path / "results" / "a"
    (tmp_path / "drive").mkdir()
    assert notebook.results("a") == tmp_path / "drive" / "vdm_jax" / "a"
    with pytest.raises(Refusal, match="on Colab only"):
        notebook.mount_drive()


SAYS = """
import sys
print("first")
sys.stderr.write("10%\\r 50%\\r100%\\n")
print(sys.argv[1])
sys.exit(int(sys.argv[2]))
"""


def test_a_command_says_what_it_says_and_its_failure_is_heard(tmp_path, capsys):
    (tmp_path / "say.py").write_text(SAYS)
    command = "python {program} {word} {code}"
    notebook.run(command, program=tmp_path / "say.py", word="two words; $HOME", code=0)
    assert capsys.readouterr().out.splitlines() == ["first", "100%", "two words; $HOME"]
    with pytest.raises(Refusal, match="code 3"):
        notebook.run(command, program=tmp_path / "say.py", word="", code=3)


SAVES = """
import pathlib, signal, sys, time
def stop(*_):
    print("saving")
    pathlib.Path(sys.argv[1]).write_text("saved")
    print("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready")
time.sleep(60)
"""


@pytest.fixture
def interruptible():
    """This process hears Ctrl-C, which workers of pytest-xdist do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_command_is_asked_to_stop(tmp_path, capsys):
    (tmp_path / "save.py").write_text(SAVES)
    main = threading.main_thread().ident
    press = threading.Timer(2.0, signal.pthread_kill, (main, signal.SIGINT))
    press.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        notebook.run("python {a} {b}", a=tmp_path / "save.py", b=tmp_path / "told")
    assert (tmp_path / "told").read_text() == "saved" and time.monotonic() - begin < 30
    assert capsys.readouterr().out.splitlines() == ["ready", "saving", "saved"]


def test_a_command_is_asked_to_stop_when_who_started_it_is_killed(tmp_path):
    (tmp_path / "save.py").write_text(SAVES.replace('print("saving")', "pass"))  # nobody hears it
    call = "from vdm_jax.core import notebook; notebook.run('python {a} {b}', a=%r, b=%r)"
    paths = str(tmp_path / "save.py"), str(tmp_path / "told")
    kernel = subprocess.Popen([sys.executable, "-c", call % paths], stdout=subprocess.PIPE)
    with kernel:
        assert kernel.stdout.readline() == b"ready\n"
        kernel.kill()
    ends = time.monotonic() + 30
    while not (tmp_path / "told").exists():
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """The HTML that was put on the page."""
    pages: list[str] = []
    monkeypatch.setattr(IPython.display, "display", lambda html: pages.append(html.data))
    return pages


PREVIEWS = """
import pathlib, shutil, sys
samples = pathlib.Path(sys.argv[1]) / "samples"
shutil.copy(sys.argv[2], samples / "step_000001.mp4")
print("step 1")
shutil.copy(sys.argv[2], samples / "step_000002.mp4")
print("step 2")
"""


def test_previews_appear_once_each(tmp_path, shown, capsys):
    (tmp_path / "run" / "samples").mkdir(parents=True)
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    video.write(tmp_path / "a.mp4", clip, 8)
    video.write(tmp_path / "run" / "samples" / "step_000000.mp4", clip, 8)  # of a run before
    (tmp_path / "draw.py").write_text(PREVIEWS)
    notebook.run(
        "python {program} {run} {clip}",
        program=tmp_path / "draw.py",
        run=tmp_path / "run",
        clip=tmp_path / "a.mp4",
        previews=tmp_path / "run",
    )
    assert [re.findall(r"step \d+", html) for html in shown] == [["step 1"], ["step 2"]]
    assert capsys.readouterr().out.splitlines() == ["step 1", "step 2"]


def test_videos_and_reports_are_on_the_page(tmp_path, shown, monkeypatch):
    """Also where there is no ffmpeg but the one that comes with the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    clip = np.zeros((3, 16, 32, 3), np.uint8)
    video.write(tmp_path / "a.mp4", clip, 8)
    notebook.show({"one": tmp_path / "a.mp4", "another": tmp_path / "a.mp4"})
    assert shown[0].count("<video") == 2 and "another" in shown[0]
    assert 'width="256"' in shown[0] and 'height="128"' in shown[0]
    (tmp_path / "report.html").write_text('<p class="x">"5 < 6"</p>')
    notebook.page(tmp_path / "report.html")
    assert "&lt;p class=&quot;x&quot;&gt;" in shown[1]


def test_steps_are_counted_on_one_line(capsys):
    assert all(notebook.counted(done, 2) for done in range(3))
    assert capsys.readouterr().out == "\rstep 0 of 2\rstep 1 of 2\rstep 2 of 2\n"
