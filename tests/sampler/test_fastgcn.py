"""FastGCN; what it shares with LADIES is tested there, for both."""

import pytest
import torch

from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.sampler.fastgcn import FastGCN


def test_probabilities_by_hand(six):
    # sources: 0 -> 1 2, 1 -> 0 2, 2 -> 0 3, 3 -> 2 4, 4 -> 0 2; in-degrees 3 1 4 1 1 0
    sixth = 1 / 16
    expected = {0: 1 + sixth, 1: 1 / 9 + sixth, 2: 1 / 9 + 1, 3: sixth + 1, 4: 1 / 9 + sixth}
    from test_ladies import graph_data

    sampler = FastGCN(2)
    sampler.prepare(graph_data(six), Need(1, "row"), Key(0, "prepare"))
    found = dict(zip(sampler.candidates.tolist(), sampler.mass.tolist(), strict=True))
    assert found == pytest.approx(expected)


def test_the_same_distribution_for_every_batch_and_layer(sixty):
    sampler = FastGCN(3, batch_size=4)
    sampler.prepare(sixty, Need(3, "row"), Key(0, "prepare"))
    mass = sampler.mass.copy()
    for step in range(3):
        sampler.sample(torch.arange(step, step + 4), Key(0, "sample", 0, step))
    assert (sampler.mass == mass).all()
    assert len(sampler.plan(torch.arange(10), Key(0, "plan"))) == 3
