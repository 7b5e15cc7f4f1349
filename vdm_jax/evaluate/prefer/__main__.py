"""`python -m vdm_jax.evaluate prefer --videos ours=DIR other=DIR --output DIR`: people choose.

The study method of Stable Video Diffusion (arXiv:2311.15127, appendix E): videos that two models
made from the same prompt or picture stand side by side, in random order and on random sides,
without names; people answer a question; the answers become win rates and Elo scores.
"""

import itertools
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from vdm_jax.core import command, folders, options, page, sniff, video
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.evaluate.prefer import report as reports
from vdm_jax.evaluate.prefer import study as studies
from vdm_jax.evaluate.prefer import votes as ballots
from vdm_jax.evaluate.prefer.server import RATER, RATER_LENGTH, Media, Poll, Server, Subject
from vdm_jax.evaluate.prefer.study import Study

PROG = "python -m vdm_jax.evaluate prefer"
PLAYED = ("h264", "vp8", "vp9", "av1")  # codecs that browsers play, of pixels in 4:2:0
CONTAINERS = {sniff.MOV: "video/mp4", sniff.MATROSKA: "video/webm"}
MADE = ".clips"  # where the other videos lie as MP4
NEAR_LOSSLESS = video.H264(crf=10, preset="fast")
LISTED = 10  # unmatched names that are told


@dataclass(frozen=True, kw_only=True)
class Request:
    """Let people choose between videos of two or more models, side by side and without names."""

    videos: tuple[str, ...] = ()
    """MODEL=FOLDER of each model: mp4, webm, gif or webp, matched by their names. NAME.txt beside a
    video is shown as its prompt, NAME.png as the picture that it begins with."""
    output: str = ""
    """Folder of the study: the votes and the report. The same command goes on where it ended."""
    question: tuple[str, ...] = ("Which video looks better?",)
    """What people are asked about each pair; several, as "Which follows the prompt better?"."""
    pairs: int | None = None
    """Pairs that each person sees; None is all."""
    ties: bool = True
    """Whether "tie" is an answer; it counts as half a win of each."""
    seed: int = 0
    """Another seed shows other pairs in another order."""
    rater: str = ""
    """Who chooses; if absent the page asks. Several people may choose at once."""
    port: int = 0
    """Port of 127.0.0.1 to listen on; 0 takes a free one."""
    report: bool = False
    """Only print and write the report of the votes in --output (all its votes*.jsonl)."""


def main(args: Sequence[str]) -> int:
    """Exit code 0: the study was stopped, and its report written."""
    request = configs.override(Request(), _gathered(args), prog=PROG)
    if not request.output:
        raise Refusal(f"--output is missing: the folder of the study; see {PROG} --help")
    output = Path(request.output)
    if not request.report:
        _check(request)
        models = studies.folders(request.videos)
        files = studies.files(models)
        study = _study(request, tuple(models), files)
        print(matched(study), flush=True)
        lock = folders.locked(output)
        with lock:
            studies.keep(study, output)
            _serve(study, _subjects(study, files, output / MADE), request)
    _report(output)
    return 0


def matched(study: Study) -> str:
    """How many names the models share, and which they do not, in one line."""
    couples = studies.couples(study.models, study.videos)
    told = ", ".join(f"{a} and {b}: {len(names)}" for (a, b), names in couples.items())
    alone = [f"{name} ({', '.join(have)})" for name, have in study.videos.items() if len(have) < 2]
    shown = ", ".join(alone[:LISTED]) + (", …" if len(alone) > LISTED else "")
    return f"matched by name: {told}; " + (f"{len(alone)} alone: {shown}" if alone else "all")


def _gathered(args: Sequence[str]) -> list[str]:
    """The arguments with --videos and --question, which may be repeated, once each."""
    own = options.own(args, (), (), ("--videos", "--question"))
    lists = ([name, *values] for name, values in own.lists.items() if values)
    return [*own.rest, *itertools.chain.from_iterable(lists)]


def _check(request: Request) -> None:
    questions = [question.strip() for question in request.question]
    if not all(questions) or len(set(questions)) < len(questions) or not questions:
        raise Refusal(f"--question: each must be asked once, got {', '.join(questions)!r}")
    if request.pairs is not None and request.pairs < 1:
        raise Refusal(f"--pairs must be at least 1, got {request.pairs}")
    if not 0 <= request.port < 2**16:
        raise Refusal(f"--port must lie in [0, 65535], got {request.port}")
    if request.rater and not (
        RATER.fullmatch(request.rater) and len(request.rater) <= RATER_LENGTH
    ):
        raise Refusal(
            f"--rater {request.rater!r}: at most {RATER_LENGTH} letters, digits, . - _ and spaces"
        )


def _study(
    request: Request, models: tuple[str, ...], files: Mapping[str, Mapping[str, Path]]
) -> Study:
    """Refuses models that share no names, and more pairs than there are."""
    count = sum(len(names) for names in studies.couples(models, files).values())
    if not count:
        raise Refusal("--videos: no name is in two folders; videos are matched by their names")
    if request.pairs is not None and request.pairs > count:
        raise Refusal(f"--pairs {request.pairs}: there are {count}")
    return Study(
        models=models,
        questions=tuple(question.strip() for question in request.question),
        seed=request.seed,
        pairs=request.pairs,
        ties=request.ties,
        videos={
            name: {model: studies.fingerprint(path) for model, path in paths.items()}
            for name, paths in tqdm(files.items(), desc="reading", leave=False, disable=None)
        },
    )


def _subjects(
    study: Study, files: Mapping[str, Mapping[str, Path]], made: Path
) -> dict[str, Subject]:
    """What can be shown; every video is looked at before anybody is asked."""
    shared = {name: paths for name, paths in files.items() if len(paths) > 1}
    subjects = {}
    for name, paths in tqdm(shared.items(), desc="looking", leave=False, disable=None):
        picture = studies.beside(paths, ".png")
        if picture is not None:
            video.read_image(picture)
        subjects[name] = Subject(
            {m: _media(path, made / f"{study.videos[name][m]}.mp4") for m, path in paths.items()},
            studies.caption(paths),
            None if picture is None else Media(picture, "image/png"),
        )
    return subjects


def _media(path: Path, copy: Path) -> Media:
    """The file itself if browsers play it, otherwise `copy`, which is made of it."""
    kind = CONTAINERS.get(sniff.sniff_file(path))
    if kind is not None:
        info = video.probe(path)
        if info.codec in PLAYED and info.pixels in ("yuv420p", "yuvj420p"):
            return Media(path, kind)
    if not copy.is_file():
        clip = video.read(path)
        video.write(copy, clip.frames, clip.fps, codec=NEAR_LOSSLESS)
    return Media(copy, CONTAINERS[sniff.MOV])


def _serve(study: Study, subjects: Mapping[str, Subject], request: Request) -> None:
    """Until Ctrl-C, or SIGTERM."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores the first
        signal.signal(stop, signal.default_int_handler)
    output = Path(request.output)
    ledger = ballots.Ledger(output)
    votes = ballots.read(output)
    reports.check(study, votes)
    poll = Poll(study, subjects, ledger, votes, lambda line: print(line, flush=True))
    with Server(poll, request.port) as server:
        print(f"open {server.address_of(request.rater)}")
        print("it answers this machine only; Ctrl-C ends the study and reports", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _report(output: Path) -> None:
    study = studies.stored(output)
    votes = list(ballots.standing(ballots.read(output)).values())
    if not votes:
        print("no votes yet")
        return
    reports.check(study, votes)
    found = reports.results(study, votes)
    for line in reports.said(found):
        print(line)
    text = reports.html(study, found, output.name)
    page.replace(output / "report.html", text.encode())
    print(f"look at {output / 'report.html'}")


if __name__ == "__main__":
    command.run(main)
