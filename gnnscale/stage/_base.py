"""What every stage is: a step of a recipe. Whatever changes the order of training is a stage."""

from typing import ClassVar

from gnnscale.core.traits import Component
from gnnscale.train.loop import Run


class Stage(Component):
    """Called once per seed, in the order in which the recipe lists the stages."""

    lasting: ClassVar[bool] = False
    """Whether it alters how the run predicts, so that a finished run that is taken up again, its
    weights restored, has to call it again."""

    apart: ClassVar[bool] = False
    """Whether it trains parts of the model by themselves, on levels in place of features."""

    def __call__(self, run: Run) -> None:
        """Do this stage's work on ``run``."""
        raise NotImplementedError
