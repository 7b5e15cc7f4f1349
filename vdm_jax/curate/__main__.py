"""`python -m vdm_jax.curate --input DIR --output DIR [--config configs/curate.py]`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from vdm_jax.core import command, options, page, weights
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate import output, report
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.curation import WORK, Curation, Executor
from vdm_jax.curate.stage import Row, needed
from vdm_jax.curate.work import Task

PROG = "python -m vdm_jax.curate"
USAGE = f"""\
usage: {PROG} --input PATH --output DIR [--OPTION VALUE ...]

Turn raw videos into shards of training clips. The same command again goes on where it ended.

  --input PATH              a folder of videos, or a .csv, .jsonl or .txt that lists them; a caption
                            lies in a .txt beside its video, or in the list
  --output DIR              the folder of the shards
  --config FILE[:FUNCTION]  a Python file and its function (default: what configs/curate.py says)
  --weights NAME=PATH ...   weights that stages of the config need, by the names that they ask for:
                            a model directory that vdm_jax.convert wrote, or a file; may be repeated
  --executor local|ray      worker processes here (default), or on a Ray cluster
  --workers COUNT           worker processes here; one for each core if absent
  --address ADDRESS         of the Ray cluster; RAY_ADDRESS, or one made here, if absent
  --print-config            show the config, options applied, and stop
  --help                    this; every option of the config follows
"""


def main(args: Sequence[str]) -> int:
    """Exit code 0: the shards are written."""
    own = options.own(
        args,
        ("--input", "--output", "--config", "--executor", "--workers", "--address"),
        ("--print-config", "--help", "-h"),
        ("--weights",),
    )
    spec = own.values.get("--config")
    config = configs.load(spec) if spec else CurateConfig()
    if not isinstance(config, CurateConfig):
        raise Refusal(f"{spec}: makes a {type(config).__name__}, not a CurateConfig")
    if own.switches & {"--help", "-h"}:
        print(USAGE)
        configs.override(config, ["--help"], prog=PROG)
    config = configs.override(config, own.rest, prog=PROG)
    if "--print-config" in own.switches:
        print(configs.to_json(config))
        return 0
    for name in ("--input", "--output"):
        if not own.values.get(name):
            raise Refusal(f"{name} is missing; see {PROG} --help")
    config = replace(config, weights=weights.given(own.lists["--weights"], config.weights))
    curation = Curation(
        config=config, source=Path(own.values["--input"]), output=Path(own.values["--output"])
    )
    curation.check()
    with curation.alone():
        return _curate(curation, _executor(own, config))


def _executor(own: options.Own, config: CurateConfig) -> Executor:
    kind = own.values.get("--executor", "local")
    workers = own.values.get("--workers")
    resources = needed(config.build())
    if workers is not None and not (workers.isdecimal() and int(workers)):
        raise Refusal(f"--workers must be at least 1, got {workers}")
    for name, of in (("--workers", "local"), ("--address", "ray")):
        if name in own.values and kind != of:
            raise Refusal(f"{name} goes with --executor {of}, got {kind}")
    if kind == "local":
        from vdm_jax.curate.local import Local

        return Local(
            workers=None if workers is None else int(workers),
            gigabytes=max(Local.gigabytes, resources.gigabytes),
        )
    if kind == "ray":
        from vdm_jax.curate.distributed import OnRay

        return OnRay(address=own.values.get("--address"), resources=resources)
    raise Refusal(f"--executor {kind}: there are local and ray")


def _curate(curation: Curation, executor: Executor) -> int:
    folder = curation.output / WORK
    with _Progress(unit=" frames", unit_scale=True, desc="looking", smoothing=0.1) as bar:
        found = curation.run(executor, bar.done)
    text = report.html(curation.config, found, folder, curation.output.name)
    page.replace(curation.output / "report.html", text.encode())
    output.tables(found, curation.output, curation.config.vectors)
    for line in said(found):
        print(line)
    with tqdm(total=len(found.kept), unit=" clips", desc="writing", leave=False) as bar:
        manifest = output.write(curation.config, found, folder, curation.output, bar.update)
    curation.tidy()
    for split, shards in manifest.splits.items():
        clips = [clip for shard in shards for clip in shard.clips]
        seconds = sum(clip.frames / clip.fps for clip in clips)
        size = sum(shard.bytes for shard in shards) / 1e6
        print(f"{split}: {len(clips)} clips, {seconds / 60:.1f} min, {size:.1f} MB")
    print(f"look at {curation.output / 'report.html'}")
    return 0


def said(found) -> list[str]:
    """The funnel, the cost and the bad files, a line for each fact."""
    lines = [f"seen: {len(found.clips)} clips of {len(found.files)} files"]
    lines += [f"{reason}: {gone} rejected" for reason, gone in found.funnel if gone]
    if found.cost:
        steps = ", ".join(f"{step} {ms:.1f}" for step, ms in found.cost.items())
        lines.append(f"cost, ms of a worker for a frame: {steps}")
    bad = [file for file in found.files if file["reason"]]
    if bad:
        names = ", ".join(f"{file['file']!r} ({file['reason']})" for file in bad[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        lines.append(f"quarantine: {len(bad)} files: {names}{more}")
    return lines


class _Progress(tqdm):
    """Frames cut of those that are known of; its ETA is right once every file was looked at."""

    def done(self, task: Task, result: Row) -> None:
        if task.kind == "look":
            self.total = (self.total or 0) + (result.get("spans") or [{"end": 0}])[-1]["end"]
            self.update(0)
        else:
            self.set_description("cutting", refresh=False)
            self.update(task.span.stop - task.span.start)


if __name__ == "__main__":
    command.run(main)
