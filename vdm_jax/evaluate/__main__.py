"""`python -m vdm_jax.evaluate --model runs/x --real data/clips --protocol stylegan-v-2048x16`."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax

from vdm_jax.core import command, folders, options, page, processes
from vdm_jax.core import config as configs
from vdm_jax.core import weights as brought
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.weights import Weights
from vdm_jax.evaluate import report, scores
from vdm_jax.evaluate.config import EvaluateConfig
from vdm_jax.evaluate.evaluation import STATISTICS, Evaluation, check, needed
from vdm_jax.evaluate.plan import Asked, planned
from vdm_jax.evaluate.prefer import __main__ as prefer
from vdm_jax.evaluate.protocol import PROTOCOLS, changes, named

PROG = "python -m vdm_jax.evaluate"
USAGE = f"""\
usage: {PROG} --model DIR [--real DIR] [--protocol NAME] [--OPTION VALUE ...]
       {PROG} --fake DIR --real DIR [--protocol NAME] [--OPTION VALUE ...]
       {PROG} prefer --help

Say how good generated videos are: FVD and other numbers of the field, with how far they can be
trusted, and what real videos get. The same command again goes on where it ended.

  --real PATH               real videos: a folder of them, shards of curate, or UCF-101 as it is
                            unpacked; if absent, what the run of the first --model held out
  --split NAME              of --real (default: test of shards, all of anything else)
  --model [NAME=]DIR ...    runs or models that draw what is evaluated, given the captions and
                            first frames of the real clips; may be repeated
  --fake [NAME=]DIR ...     folders of generated videos; where they are named as the real ones,
                            they are also compared clip by clip
  --baseline copy linear    simple answers beside them: each first frame held, the first two
                            frames continued
  --protocol NAME           {", ".join(PROTOCOLS)}
                            (default: plain); its settings are options below
  --weights NAME=PATH ...   of the networks that measure (default: models/NAME): i3d, videomae,
                            inception, lpips, clip; vdm_jax.convert.NAME writes them
  --output DIR              for the clips drawn, results.json and report.html (default:
                            evaluations/ and the name of the first model or folder)
  --statistics DIR          what was measured of each clip, for any evaluation that can use it
                            (default: statistics beside the output)
  --config FILE[:FUNCTION]  a Python file whose function gives an EvaluateConfig
  --processes COUNT, --process INDEX, --coordinator HOST:PORT
                            of an evaluation on several machines, as in vdm_jax.train
  --print-config            show the config, options applied, and stop
  --help                    this; every option of the protocol follows
"""
PLACE = ("--processes", "--process", "--coordinator")
VALUES = ("--real", "--split", "--protocol", "--output", "--statistics", "--config", *PLACE)
MODELS = Path("models")
PLAIN_NAME = "plain"  # the protocol that promises nothing, so that nothing of it is changed


def main(args: Sequence[str]) -> int:
    """Exit code 0, the table, and report.html."""
    if args and args[0] == "prefer":
        return prefer.main(args[1:])
    own = options.own(
        args, VALUES, ("--print-config", "--help", "-h"),
        ("--model", "--fake", "--baseline", "--weights"),
    )  # fmt: skip
    config = _config(own)
    if own.switches & {"--help", "-h"}:
        print(USAGE)
        configs.override(config, ["--help"], prog=PROG)
    told = config.protocol
    config = configs.override(config, own.rest, prog=PROG)
    if "--print-config" in own.switches:
        print(configs.to_json(config))
        return 0
    processes.join(*(own.values.get(name) for name in PLACE))
    logging.getLogger("vdm_jax").setLevel(logging.WARNING)
    asked = Asked(
        real=Path(own.values["--real"]) if "--real" in own.values else None,
        split=own.values.get("--split"),
        fake=_titled("--fake", own.lists["--fake"]),
        models=_titled("--model", own.lists["--model"]),
        baselines=own.lists["--baseline"],
    )
    output = Path(own.values.get("--output") or _default_output(asked))
    statistics = Path(own.values.get("--statistics") or output.parent / STATISTICS)
    metrics = dict(zip(config.protocol.metrics, scores.known(config.protocol.metrics), strict=True))
    weights = _weights(own.lists["--weights"], needed(list(metrics.values())))
    plan = planned(config, asked, output)
    check(list(metrics.values()), plan)
    name = own.values.get("--protocol") or own.values.get("--config", PLAIN_NAME)
    head = report.head(name, plan, [] if name == PLAIN_NAME else changes(told, config.protocol))
    with _alone(output, statistics):
        if jax.process_index() == 0:
            print("\n".join(head), flush=True)
        result = Evaluation(config, plan, weights, statistics).run()
        if result is not None:
            print("\n".join(report.lines(result)))
            page.replace(output / "results.json", result.json(head).encode())
            page.replace(output / "report.html", report.html(name, head, result).encode())
            print(f"look at {output / 'report.html'}")
    processes.leave()
    return 0


@contextmanager
def _alone(output: Path, statistics: Path) -> Iterator[None]:
    """Make both folders; another command that writes the same output is refused."""
    if jax.process_index():
        yield
        return
    try:
        statistics.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(f"--statistics {statistics} cannot be made: {error.strerror}") from error
    with folders.locked(output):
        yield


def _config(own: options.Own) -> EvaluateConfig:
    spec = own.values.get("--config")
    config = configs.load(spec) if spec else EvaluateConfig()
    if not isinstance(config, EvaluateConfig):
        raise Refusal(f"{spec}: makes a {type(config).__name__}, not an EvaluateConfig")
    if "--protocol" in own.values:
        config = replace(config, protocol=named(own.values["--protocol"]))
    return config


def _titled(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """Folders by the titles that they get: NAME=DIR, or the folder's own name."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        folder = Path(path if equals else text)
        title = name if equals else folder.absolute().name
        if not re.fullmatch(r"[\w][\w .+-]*", title):
            raise Refusal(f"{option} {text}: write NAME=DIR, of letters, digits, . _ and -")
        if title in found:
            raise Refusal(f"{option} {text}: two are called {title!r}; write NAME=DIR")
        found[title] = folder
    return found


def _default_output(asked: Asked) -> Path:
    title = next(iter([*asked.models, *asked.fake, *asked.baselines]))
    return Path("evaluations") / title


def _weights(texts: Sequence[str], names: Sequence[str]) -> Mapping[str, Weights]:
    """Those given, or those in models/, of each network that is asked for."""
    told = [text.partition("=")[0] for text in texts]
    missing = [n for n in names if n not in told and not (MODELS / n).is_dir()]
    if missing:
        raise Refusal("; ".join(f"{n} is missing: {HOW[n]}" for n in missing))
    if unknown := [name for name in told if name not in HOW]:
        raise Refusal(f"--weights {unknown[0]}: there are {', '.join(HOW)}")
    default = [f"{name}={MODELS / name}" for name in names if name not in told]
    found = {each.name: each for each in brought.given([*texts, *default])}
    return {name: found[name] for name in names}


HOW = {
    "i3d": "python -m vdm_jax.convert.i3d --output models/i3d fetches it",
    "lpips": "python -m vdm_jax.convert.lpips --network alex --output models/lpips fetches it",
    "videomae": "python -m vdm_jax.convert.videomae --from FILE --output models/videomae",
    "inception": "python -m vdm_jax.convert.inception --from FILE --output models/inception",
    "clip": "python -m vdm_jax.convert.whole_clip --from FOLDER --output models/clip",
}
"""Where the networks come from, by the names of --weights."""


if __name__ == "__main__":
    command.run(main)
