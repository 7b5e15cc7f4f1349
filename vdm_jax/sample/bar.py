"""How far a drawing is, on the terminal."""

import time

from tqdm import tqdm


class Steps(tqdm):
    """A bar of denoising steps whose ETA does not count the time of compiling, before the first."""

    def __init__(self, desc: str):
        super().__init__(desc=desc, unit="step", leave=False, disable=None)

    def begin(self, total: int) -> None:
        """The model is loaded: from now on steps are counted."""
        self.reset(total=total)
        self.set_description("compiling")

    def step(self) -> None:
        if self.n == 0 and not self.disable:
            self.set_description("drawing")
            self.initial, self.start_t = 1, time.time()
        self.update()
