"""How far a drawing is, on the terminal."""

import time

from tqdm import tqdm


class Steps(tqdm):
    """A bar of denoising steps whose ETA does not count the time of compiling, before the first."""

    def step(self) -> None:
        if self.n == 0 and not self.disable:
            self.set_description("drawing")
            self.initial, self.start_t = 1, time.time()
        self.update()
