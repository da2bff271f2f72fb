import pytest
import torch
from torch import nn

from gnnscale.core.data import GraphData, Task
from gnnscale.core.teacher import Teacher


@pytest.fixture
def attached(six):
    """attached(cls, table, width=None, data=None, **options): a term that has its teacher."""

    def make(cls, table, width=None, data=None, **options):
        term = cls(**options)
        term.size((table.shape[1] if width is None else width,))
        torch.manual_seed(0)
        if data is None:
            data = GraphData("six", six, torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64), {},
                             Task(classes=3))  # fmt: skip
        hidden = dict.fromkeys(term.taps, table)
        term.attach(nn.Identity(), data, Teacher(logits=table, hidden=hidden))
        return term.double()

    return make
