"""What the harness found, as rows of one table."""

from dataclasses import dataclass, field


@dataclass
class Row:
    """One kind of fault. seconds: of each try, `took` says what; failures: why one did not hold."""

    fault: str
    promise: str
    took: str = ""
    tries: int = 0
    held: int = 0
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    beside: str = ""

    def add(self, failure, seconds=None, count=1):
        """failure: None where it held."""
        self.tries += count
        self.held += count if failure is None else 0
        if failure is not None:
            self.failures.append(failure)
        if seconds is not None:
            self.seconds.append(seconds)

    @property
    def worst(self):
        return f"{max(self.seconds):.1f} s {self.took}" if self.seconds else ""


def table(rows):
    """Markdown, then the failures."""
    cells = [("fault", "promise", "held", "worst time", "bare Orbax")]
    cells += [(r.fault, r.promise, f"{r.held}/{r.tries}", r.worst, r.beside) for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
             for row in cells]  # fmt: skip
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    failures = [f"FAILED {r.fault}: {why}" for r in rows for why in r.failures]
    return "\n".join(lines + failures)
