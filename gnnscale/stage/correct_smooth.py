"""Correct & Smooth: two propagations of labels behind any model, nothing of them trained.

Huang, He, Singh, Lim & Benson, ICLR 2021, arXiv:2010.13993. Departs from it: for several classes
per node, which the paper has not, probabilities are sigmoids, and a class is predicted where its
score is above 1/2.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, NonNegative, Share
from gnnscale.graph.outcome import Known, Matrix, Propagation, Settings, Way
from gnnscale.stage._base import Stage
from gnnscale.train.loop import Run
from gnnscale.train.predict import Inference

log = logging.getLogger("gnnscale")


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Z [N, C], in float32 at least."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.softmax(1) if task.kind == "single" else logits.sigmoid()


def as_logits(scores: Tensor, task: Task) -> Tensor:
    """Logits of which the softmax is the scores over their sum, or the sigmoid is the scores.

    Taken relative to each row's largest, so that rounding does not change which one that is.
    """
    if task.kind == "multi":
        return torch.logit(scores)
    least = torch.finfo(scores.dtype).tiny
    return (scores / scores.amax(1, keepdim=True).clamp(min=least)).clamp(min=least).log()


class CorrectedSmoothed(Inference):
    """The predictions of another inference, corrected and smoothed with the labels of the graph.

    Training labels are those of the graph that predictions are asked for; one without any is
    smoothed only. With ``validation_labels`` nodes that are not of the validation split are
    predicted with its labels, too; those of it never are.

    Args:
        base: gives the logits. how: see ``Settings``. spread: does the propagation.
        validation_labels: see above.
    """

    def __init__(
        self, base: Inference, how: Settings, spread: Propagation, validation_labels: bool
    ):
        super().__init__()
        self.base, self.how, self.spread = base, how, spread
        self.validation_labels = validation_labels
        self.scope, self.view, self.whole = base.scope, base.view, base.whole

    def logits(
        self, model: nn.Module, data: GraphData, rows: Tensor, device: torch.device
    ) -> Tensor:
        """Every node is predicted, ``rows`` are returned."""
        everyone = torch.arange(data.nodes, device=device)
        self.base.listener = self.listener
        z = probabilities(self.base.logits(model, data, everyone, device), data.task)
        train, valid = data.splits["train"], data.splits["valid"]
        scores = self.spread(self.how, data, z, Known.of(data, train, z))
        if self.validation_labels and len(valid):
            both = Known.of(data, torch.cat([train, valid]), z)
            more, own = self.spread(self.how, data, z, both), valid.to(device)
            more[own] = scores[own]
            scores = more
        return as_logits(scores, data.task)[rows]


class CorrectSmooth(Stage):
    """From here on the run predicts by correcting and smoothing what its model says.

    Every option but the last two may be a list: the combination with the best validation score is
    taken, with training labels only, and kept with the weights. Scores of the training split mean
    little afterwards, its nodes being given their own labels.

    Args:
        correct: ``autoscale`` or ``fixed``, see ``Propagation.residual``; ``none``: smooth only.
        correct_alpha, correct_matrix: of the residual's propagation, see ``matrix``.
        scale: of the residual, with ``fixed``.
        smooth_alpha, smooth_matrix: of the predictions' propagation.
        steps: of both.
        validation_labels: use those too when nodes outside the validation split are predicted.

    Raises: UsageError for an empty list, or several combinations without validation nodes.
    """

    needs = (traits(Trait.NODE),)
    lasting = True

    def __init__(
        self,
        correct: Way | list[Way] = "autoscale",
        correct_alpha: Share | list[Share] = 0.8,
        correct_matrix: Matrix | list[Matrix] = "DAD",
        scale: NonNegative | list[NonNegative] = 1.0,
        smooth_alpha: Share | list[Share] = 0.8,
        smooth_matrix: Matrix | list[Matrix] = "DAD",
        steps: Count = 50,
        validation_labels: bool = False,
    ):
        self.options = {
            "correct": correct, "correct_alpha": correct_alpha, "correct_matrix": correct_matrix,
            "scale": scale, "smooth_alpha": smooth_alpha, "smooth_matrix": smooth_matrix,
        }  # fmt: skip
        self.steps, self.validation_labels = steps, validation_labels
        for name, value in self.options.items():
            if value == []:
                raise UsageError(f"{name}=[]: name one value or more")

    def combinations(self) -> list[Settings]:
        """Every combination that differs from the others, in the order of the options."""
        values = [v if isinstance(v, list) else [v] for v in self.options.values()]
        return list(dict.fromkeys(map(_used, product(*values))))

    def __call__(self, run: Run) -> None:
        """Choose, if there is a choice, and replace ``run.inference``."""
        spread, several = Propagation(self.steps), self.combinations()
        if len(several) == 1:
            how = several[0]
        elif "correct_smooth" in run.kept:
            how = Settings(**run.kept["correct_smooth"])
        else:
            with run.meter.phase("fit"):
                how = self.choose(run, spread, several)
            run.kept["correct_smooth"] = asdict(how)
            run.save()
        run.notes.append(f"correct & smooth: {how}")
        run.notes.append("the score of the training split: its nodes were given their own labels")
        run.inference = CorrectedSmoothed(run.inference, how, spread, self.validation_labels)

    def choose(self, run: Run, spread: Propagation, several: list[Settings]) -> Settings:
        """The first of those with the best validation score."""
        data, valid = run.valid_data, run.valid_data.splits["valid"]
        if not len(valid):
            raise UsageError(
                f"recipe=correct_smooth: {len(several)} combinations are to be compared and "
                f"{data.name} has no validation nodes; give one value per option"
            )
        everyone = torch.arange(data.nodes)
        z = probabilities(run.inference(run.model, data, everyone, run.device), data.task)
        y, rows = data.y[valid], valid.to(z.device)
        known = Known.of(data, data.splits["train"], z)
        best, found = several[0], -1.0
        for how, scores in self.tried(spread, several, data, z, known):
            score = data.task.score(as_logits(scores, data.task)[rows].cpu(), y)
            if score > found:
                best, found = how, score
        before = data.task.score(as_logits(z, data.task)[rows].cpu(), y)
        log.info("correct & smooth: validation %s %.4f, before %.4f: %s, the best of %d",
                 data.task.metric, found, before, best, len(several))  # fmt: skip
        return best

    def tried(
        self,
        spread: Propagation,
        several: list[Settings],
        data: GraphData,
        z: Tensor,
        known: Known,
    ) -> Iterator[tuple[Settings, Tensor]]:
        """The scores of every combination; residuals that several share are propagated once."""
        shared: dict[Any, Tensor] = {}
        for how in several:
            corrected, key = z, (how.correct, how.correct_alpha, how.correct_matrix)
            if how.correct != "none":
                if key not in shared:
                    shared = {key: spread.residual(how, data, z, known)}
                corrected = z + (1.0 if how.scale is None else how.scale) * shared[key]
            yield how, spread.smoothed(how, data, corrected, known)


def _used(values: tuple) -> Settings:
    """A combination without what it does not use: a matrix has no part where alpha is 0."""
    how = Settings(*values)
    if how.smooth_alpha == 0:
        how = replace(how, smooth_matrix="DAD")
    if how.correct == "none":
        return replace(how, correct_alpha=None, correct_matrix=None, scale=None)
    if how.correct_alpha == 0:
        how = replace(how, correct_matrix="DAD")
    return how if how.correct == "fixed" else replace(how, scale=None)
