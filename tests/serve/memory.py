"""How much memory a server's processes take while something is done to them."""

from pathlib import Path

MB = 1024  # the kernel counts in KB


class Memory:
    """Of the process that answers and the one that decodes pictures, not of the worker: by how many
    MB they grew at most (`peak`) and in the end (`settled`)."""

    def __init__(self, server):
        self._process, self._before = server.process.pid, {}

    def __enter__(self):
        self._before = {each: _status(each)["VmRSS"] for each in self._each()}
        for each in self._before:
            Path(f"/proc/{each}/clear_refs").write_text("5")  # the high-water mark begins anew
        return self

    def __exit__(self, *error):
        after = {each: _status(each) for each in self._each()}
        begun = sum(self._before.values())
        gone = [self._before[each] for each in self._before if each not in after]
        self.peak = (sum(each["VmHWM"] for each in after.values()) - begun + sum(gone)) / MB
        if len(after) < len(self._before):
            self.peak -= sum(gone) / MB
        self.settled = (sum(each["VmRSS"] for each in after.values()) - begun) / MB
        self.whole = sum(each["VmRSS"] for each in after.values()) / MB

    def __str__(self):
        return f"memory +{self.peak:.0f} MB at most, +{self.settled:.0f} after, of {self.whole:.0f}"

    def _each(self):
        tasks = Path(f"/proc/{self._process}/task").iterdir()
        children = {int(c) for task in tasks for c in (task / "children").read_text().split()}
        decoders = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
        return [self._process, *decoders]


def _status(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {n: int(v.split()[0]) for n, v in (x.split(":", 1) for x in lines) if n.startswith("Vm")}
