import pytest

from gnnscale.binding import bind, resolve, trust
from gnnscale.core.errors import UsageError

NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("os.system", "package 'os' is not trusted"),
        ("gnnscale_evil.X", "package 'gnnscale_evil' is not trusted"),
        ("torch.optimum.Adam", "package 'torch' is not trusted"),
        ("gnnscale.core.record.Path", "Path is defined in pathlib"),
        ("gnnscale.core.environment.subprocess.Popen", "can't be imported"),
        ("gnnscale.core.record.write_json", "not a class"),
        ("gnnscale.nowhere.X", "can't be imported"),
        ("gnnscale.architecture.gcn.GNC", "can't be imported"),
        ("GCN", "not a dotted path"),
        (3, "not a dotted path"),
    ],
)
def test_what_must_not_be_imported_is_not(target, said):
    with pytest.raises(UsageError, match=said):
        resolve(target, NONE)


def test_classes_of_ours_and_of_torch_optim_are():
    assert resolve("gnnscale.architecture.gcn.GCN", NONE).__name__ == "GCN"
    assert resolve("torch.optim.Adam", NONE).__name__ == "Adam"


def test_a_class_of_another_kind_is_refused():
    _, problems = bind("architecture", "architecture", "x",
                       {"_target_": "gnnscale.core.errors.UsageError"}, NONE)  # fmt: skip
    assert "is no architecture" in problems[0]


def test_every_problem_of_a_node_is_found():
    node = {"_target_": "gnnscale.train.loop.Trainer", "epocs": 3, "epochs": 0, "decay": "some",
            "patience": None}  # fmt: skip
    bound, problems = bind("trainer", "trainer", "default", node, NONE)
    assert bound is not None
    text = "\n".join(problems)
    assert len(problems) == 3
    assert "trainer.epocs: key 'epocs' does not exist (did you mean 'epochs'?)" in text
    assert "trainer.epochs=0: input should be greater than or equal to 1" in text
    assert "trainer.decay=some" in text


@pytest.mark.parametrize("value", [True, "3", 3.5])
def test_values_are_not_coerced(value):
    node = {"_target_": "gnnscale.train.loop.Trainer", "epochs": value}
    assert bind("trainer", "trainer", "default", node, NONE)[1]


def test_whole_numbers_are_good_reals():
    node = {"_target_": "gnnscale.train.loop.Trainer", "min_delta": 0, "clip": 1}
    assert bind("trainer", "trainer", "default", node, NONE)[1] == []


def test_trust_comes_from_what_was_typed_or_the_environment():
    assert trust(["++trust=[a,b]", "++seed=3"], "c d") == {"a", "b", "c", "d"}
    assert trust(["architecture=trust"]) == frozenset()
