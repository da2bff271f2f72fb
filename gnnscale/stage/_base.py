"""What every stage is: a step of a recipe. Whatever changes the order of training is a stage."""

from gnnscale.core.traits import Component
from gnnscale.train.loop import Run


class Stage(Component):
    """Called once per seed, in the order in which the recipe lists the stages."""

    def __call__(self, run: Run) -> None:
        """Do this stage's work on ``run``."""
        raise NotImplementedError
