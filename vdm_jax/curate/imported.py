"""Parts of curation that the user's own code makes: captioners, summaries, detectors."""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.weights import Need

PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Something that a function of the user's makes, in each worker, when it is first used.

    name: what its results are called. make: the function, "module:function", in a file of the
    folder in which the command is started, or installed. weights: name of what --weights gives the
    function, a path; "" where it takes nothing.

        # blip.py
        class Blip:
            def __init__(self, folder):
                self.model = load(folder)

            def caption(self, clip):
                return self.model(clip.spread(3)[1])

        # the config
        Captions(writers=(Imported(name="blip", make="blip:Blip", weights="blip"),))

        python -m vdm_jax.curate … --weights blip=weights/blip
    """

    name: str
    make: str
    weights: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise Refusal(f"name must be one word, got {self.name!r}")
        if not PLACE.fullmatch(self.make):
            raise Refusal(f'{self.name}: make must be "module:function", got {self.make!r}')

    @property
    def needs(self) -> tuple[Need, ...]:
        what = f"what {self.make} takes, a file or a folder"
        return (Need(self.weights, what),) if self.weights else ()

    def check(self, weights: Mapping[str, Path]) -> None:
        """Refuse what cannot be imported, or called."""
        self._function()

    def build(self, weights: Mapping[str, Path]) -> Any:
        return self._function()(*([weights[self.weights]] if self.weights else []))

    def _function(self) -> Any:
        module, _, name = self.make.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise Refusal(
                f"{self.name}: {self.make} cannot be imported ({error}); it must lie in the folder "
                "in which the command is started, or be installed"
            ) from error
        if not callable(function):
            raise Refusal(f"{self.name}: {self.make} is a {type(function).__name__}, no function")
        return function
