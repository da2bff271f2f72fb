import hashlib
import subprocess
import sys
import traceback

import numpy as np
import pytest
import torch

from gnnscale.core.random import Key


def test_word_is_the_hash_of_the_fields():
    digest = hashlib.blake2b(b"(7, 'plan', 1, 2, 3)", digest_size=8).digest()
    assert Key(7, "plan", 1, 2, 3).word == int.from_bytes(digest, "little") // 2


@pytest.mark.process
def test_word_does_not_depend_on_the_process():
    code = "from gnnscale.core.random import Key; print(Key(3, 'sample', 4, 5).word)"
    words = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("0", "1")
    }  # fmt: skip
    assert words == {f"{Key(3, 'sample', 4, 5).word}\n"}


def test_every_field_matters():
    keys = [
        Key(seed, purpose, epoch, step, rank)
        for seed in range(4)
        for purpose in ("plan", "sample", "dropout")
        for epoch in range(5)
        for step in range(5)
        for rank in range(2)
    ]
    words = {key.word for key in keys}
    assert len(words) == len(keys) == 600
    assert all(0 <= word < 2**63 for word in words)


def test_equal_keys_draw_equally_and_others_do_not():
    a, b, c = Key(0, "plan", 1), Key(0, "plan", 1), Key(0, "plan", 2)
    assert np.array_equal(a.numpy().random(8), b.numpy().random(8))
    assert not np.array_equal(a.numpy().random(8), c.numpy().random(8))
    draws = [torch.rand(8, generator=key.torch()) for key in (a, b, c)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_torch_is_seeded_as_by_manual_seed_and_no_stack_is_formatted(monkeypatch):
    key = Key(0, "step", 3)
    torch.manual_seed(key.word)
    want = torch.rand(8)

    def called(*_):
        raise AssertionError("a millisecond per step")

    monkeypatch.setattr(traceback, "format_stack", called)
    key.seed_torch()
    assert torch.equal(torch.rand(8), want)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_seeded_as_by_manual_seed():
    key = Key(0, "step", 3)
    torch.manual_seed(key.word)
    want = torch.rand(8, device="cuda")
    torch.rand(3, device="cuda")
    key.seed_torch()
    assert torch.equal(torch.rand(8, device="cuda"), want)


def test_draws_of_many_keys_look_uniform():
    # one draw each of 2000 neighbouring keys: mean and lag-one product within 4 standard errors
    u = np.array([Key(0, "sample", 0, step).numpy().random() for step in range(2000)])
    assert abs(u.mean() - 0.5) < 4 * (1 / 12) ** 0.5 / 2000**0.5
    assert abs(((u[1:] - 0.5) * (u[:-1] - 0.5)).mean()) < 4 * (1 / 12) / 1999**0.5


def test_at_keeps_seed_and_rank():
    assert Key(3, "plan", 1, 2, 5).at("sample", 7, 8) == Key(3, "sample", 7, 8, 5)


def test_generators_leave_torch_alone_and_seed_torch_does_not():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    Key(0, "plan").torch()
    Key(0, "plan").numpy()
    assert torch.equal(torch.get_rng_state(), before)
    Key(0, "plan").seed_torch()
    first = torch.rand(4)
    torch.rand(9)
    Key(0, "plan").seed_torch()
    assert torch.equal(torch.rand(4), first)
    assert torch.equal(first, torch.rand(4, generator=Key(0, "plan").torch()))


def test_numpy_integers_name_the_same_key():
    import numpy as np

    assert Key(np.int64(3), "a", np.int32(1)).word == Key(3, "a", 1).word
