"""The recurrent controller of L2-GCN: after every few epochs, stay with this layer or go on."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.train.loop import Run
from gnnscale.train.progress import Patience

STOP = 1


@dataclass
class Episode:
    """What the controller remembers from decision to decision, over all layers of one training."""

    state: tuple[Tensor, Tensor] | None = None
    count: int = 0
    previous: int = 0
    log_probabilities: list[Tensor] = field(default_factory=list)
    stop_probabilities: list[float] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """For a checkpoint."""
        kept = None if self.state is None else [s.detach() for s in self.state]
        return {"state": kept, "count": self.count, "previous": self.previous}

    def load(self, plain: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.state = None if plain["state"] is None else tuple(plain["state"])
        self.count, self.previous = plain["count"], plain["previous"]


class Controller(nn.Module):
    """An LSTM cell over (loss so far, position), with a linear head per decision.

    The input of decision t in layer l of L is 0.1 v || E[2 t + previous action], where v in
    R^(L+1) is filled with loss - loss_0 + 1 (loss_0: at the layer's first decision) and has a 1 at
    entry l + 1. You et al., CVPR 2020, arXiv:2003.13606, sec. 3.3; sizes are the authors' code's: 8
    in all, more where L > 6.

    Args:
        layers: L. decisions: most decisions of an episode.
    """

    def __init__(self, layers: int, decisions: int):
        super().__init__()
        self.layers, self.decisions = layers, decisions
        size = max(8, layers + 2)
        self.cell = nn.LSTMCell(size, size)
        self.position = nn.Embedding(2 * decisions, size - layers - 1)
        self.heads = nn.ModuleList(nn.Linear(size, 2) for _ in range(decisions))

    def forward(self, episode: Episode, layer: int, gain: float) -> Tensor:
        """Log-probabilities of (stay, stop), [2]; the episode remembers the cell's state."""
        v = torch.full((self.layers + 1,), gain)
        v[layer + 1] = 1.0
        where = self.position(torch.tensor(2 * episode.count + episode.previous))
        episode.state = self.cell(torch.cat([0.1 * v, where])[None], *self._state(episode))
        return F.log_softmax(self.heads[episode.count](episode.state[0][0]), -1)

    @staticmethod
    def _state(episode: Episode) -> tuple:
        return () if episode.state is None else (episode.state,)


class Decisions(Patience):
    """Patience that also asks a controller, every ``step`` epochs of one layer.

    Args:
        before: the patience that applies besides. controller, episode: who decides, on what.
        run: of the layer; its last loss is what the controller is shown. layer: which.
        step: epochs between decisions. rule: rule(log-probabilities, epochs done) -> whether to
            stop; None stands for no more than the controller's own limit of decisions.
    """

    def __init__(
        self,
        before: Patience,
        controller: Controller,
        episode: Episode,
        run: Run,
        layer: int,
        step: int,
        rule: Any,
    ):
        super().__init__(before.limit, before.min_delta, before.monitor)
        self.controller, self.episode, self.run = controller, episode, run
        self.layer, self.step, self.rule = layer, step, rule
        self.first_loss: float | None = None

    def hear(self, score: float, epoch: int, loss: float = float("nan")) -> tuple[bool, bool]:
        """(are these weights to be kept, is this layer to be left)."""
        better, stop = super().hear(score, epoch, loss)
        if (epoch + 1) % self.step == 0:
            stop = self.decide(epoch + 1) or stop
        return better, stop

    def decide(self, epochs: int) -> bool:
        """Ask the controller and note what was done. Out of decisions, a layer is left."""
        episode, loss = self.episode, self.run.last_loss
        if episode.count == self.controller.decisions:
            return True
        self.first_loss = loss if self.first_loss is None else self.first_loss
        said = self.controller(episode, self.layer, loss - self.first_loss + 1)
        stop = bool(self.rule(said, epochs))
        episode.log_probabilities.append(said[int(stop)])
        episode.stop_probabilities.append(float(said[STOP].detach().exp()))
        episode.count, episode.previous = episode.count + 1, int(stop)
        return stop

    def state(self) -> dict[str, Any]:
        """For a checkpoint: also where the episode stands."""
        return {**super().state(), "first_loss": self.first_loss, "episode": self.episode.plain()}

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        super().load(state)
        self.first_loss = state["first_loss"]
        self.episode.load(state["episode"])
