import pytest

from gnnscale.catalog import Catalog
from gnnscale.core.errors import UsageError
from gnnscale.overrides import VERBS, Request, normalise, parse

TRAIN = """
defaults:
  - dataset: digits
  - sampler: full
  - architecture: gcn
  - distillation: [none]
  - quantization: none
  - trainer: default
  - optimizer: adam
  - logger: null
  - experiment: null
  - _self_
seed: 0
trust: []
teacher: {run: null}
name: null
"""
OPTIONS = {
    "dataset": ["digits", "cora"],
    "sampler": ["full", "saint", "cluster"],
    "architecture": ["gcn", "egc", "gat"],
    "distillation": ["none", "logit", "gcrd"],
    "quantization": ["none", "qat"],
    "trainer": ["default"],
    "optimizer": ["adam", "sgd"],
    "logger": ["csv", "wandb"],
    "experiment": ["t1", "t2"],
    "extra": ["a", "none"],
}
BODIES = {
    "sampler/saint": "roots: 5\nshared: 1",
    "architecture/gat": "heads: 4\nshared: 1",
    "trainer/default": "epochs: 10\nfast: false",
    "optimizer/adam": "lr: 0.01\nweight_decay: 0",
    "optimizer/sgd": "lr: 0.1\nmomentum: 0",
    "distillation/logit": "alpha: 1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("conf")
    (root / "train.yaml").write_text(TRAIN)
    (root / "__init__.py").touch()
    for group, names in OPTIONS.items():
        (root / group).mkdir()
        for name in names:
            own = group in ("distillation", "logger")
            package = f"# @package {group}.{name}\n" if own else ""
            body = BODIES.get(f"{group}/{name}", "{}" if own else f"is: {name}")
            if group == "experiment":
                package, body = "# @package _global_\n", f"name: {name}"
            (root / group / f"{name}.yaml").write_text(f"{package}# About {name}\n{body}\n")
    return root


@pytest.fixture(scope="module")
def catalog(folder):
    return Catalog([folder])


# peers.md D2 (every row) and D3 (the equal results), then our own rules
EQUAL = [
    # a group in the defaults list, with any prefix
    ("sampler=saint", "sampler=saint"),
    ("+sampler=saint", "sampler=saint"),
    ("++sampler=saint", "sampler=saint"),
    ("+sampler=full", "sampler=full"),
    ("+logger=csv", "logger=csv"),
    # a group that is only a folder
    ("extra=a", "+extra=a"),
    ("+extra=a", "+extra=a"),
    ("++extra=a", "+extra=a"),
    # aliases and packages
    ("arch=egc", "architecture=egc"),
    ("+arch=egc", "architecture=egc"),
    ("+model=egc", "architecture=egc"),
    ("data=cora", "dataset=cora"),
    ("quant=qat", "quantization=qat"),
    ("distill=logit", "distillation=logit"),
    ("opt=sgd", "optimizer=sgd"),
    ("model@teacher=gcn", "+architecture@teacher=gcn"),
    ("sampler='saint'", "sampler='saint'"),
    # sweeps and lists
    ("+sampler=full,saint", "sampler=full,saint"),
    ("model=gcn,egc", "architecture=gcn,egc"),
    ("sampler=glob(*)", "sampler=glob(*)"),
    ("sampler=choice(full,saint)", "sampler=choice(full,saint)"),
    ("trainer.epochs=range(1,4)", "++trainer.epochs=range(1,4)"),
    ("distillation=[logit,gcrd]", "distillation=[logit,gcrd]"),
    ("distillation=[none]", "distillation=[none]"),
    ("distillation=[logit],[logit,gcrd]", "distillation=[logit],[logit,gcrd]"),
    ("logger=[csv,wandb]", "logger=[csv,wandb]"),
    ("experiment=[t1,t2]", "experiment=[t1,t2]"),
    ("sampler=[saint]", "sampler=[saint]"),
    # Hydra raises a TypeError on null among options
    ("distillation=[logit,null]", "distillation=[logit]"),
    ("distillation=[null]", "distillation=[none]"),
    ("distillation=[]", "distillation=[none]"),
    ("experiment=null,t1", "experiment=[],t1"),
    # dict values
    ("+sampler={roots: 3, f: 'a,b'}", "++sampler={roots: 3, f: 'a,b'}"),
    ("teacher={architecture: gat}", "++teacher={architecture: gat}"),
    # keys below a group
    ("trainer.epochs=40", "++trainer.epochs=40"),
    ("+sampler.roots=5", "++sampler.roots=5"),
    ("++model.hidden=8", "++architecture.hidden=8"),
    ("distillation.logit.alpha=0.5", "++distillation.logit.alpha=0.5"),
    ("distill.logit.alpha=0.5", "++distillation.logit.alpha=0.5"),
    ("trainer.note='a=b'", "++trainer.note='a=b'"),
    ("~trainer.epochs", "~trainer.epochs"),
    # keys of train.yaml
    ("seed=3", "seed=3"),
    ("+seed=3", "seed=3"),
    ("++seed=1,2", "seed=1,2"),
    ("teacher=runs/x", "++teacher.run=runs/x"),
    ("teacher.architecture=gat", "++teacher.architecture=gat"),
    ("trust=mine", "++trust=[mine]"),
    ("trust=a,b", "++trust=[a,b]"),
    ("trust=[a,b]", "++trust=[a,b]"),
    # what is not ours
    ("hydra.run.dir=x", "hydra.run.dir=x"),
    ("+hydra/launcher=joblib", "+hydra/launcher=joblib"),
    ("hydra/launcher=joblib", "hydra/launcher=joblib"),
    ("user.x=1", "++user.x=1"),
    ("+user.x.y=1", "++user.x.y=1"),
    ("experiment=t1", "experiment=t1"),
]


@pytest.mark.parametrize(("typed", "wanted"), EQUAL)
def test_normal_form(catalog, typed, wanted):
    assert normalise([typed], catalog) == [wanted]


@pytest.mark.parametrize(
    "typed", [typed for typed, _ in EQUAL if not typed.startswith(("+hydra", "hydra/", "~"))]
)
def test_the_normal_form_is_its_own(catalog, typed):
    once = normalise([typed], catalog)
    assert normalise(once, catalog) == once


@pytest.mark.parametrize("typed", ["experiment=null", "~experiment", "~logger", "~extra"])
def test_nothing_selected_by_default_is_dropped(catalog, typed):
    assert normalise(["seed=1", typed], catalog) == ["seed=1"]


def test_dropping_undoes_what_was_typed_before(catalog):
    assert normalise(["experiment=t1", "seed=1", "experiment=null"], catalog) == ["seed=1"]
    assert normalise(["experiment=null", "experiment=t1"], catalog) == ["experiment=t1"]


REFUSED = [
    ("sampler=siant", "sampler 'siant' does not exist (did you mean 'saint'?); valid: cluster, "),
    ("sampler=full,siant", "sampler 'siant' does not exist"),
    ("sampler=choice(full,siant)", "sampler 'siant' does not exist"),
    ("distillation=[logit,grcd]", "distillation 'grcd' does not exist (did you mean 'gcrd'?)"),
    ("extra=b", "extra 'b' does not exist"),
    ("architecture=3", "architecture '3' does not exist"),
    ("sampler=", "no option given; valid: cluster, full, saint"),
    ("sampler=null", "type sampler=OPTION (the default is full)"),
    ("sampler=[]", "sampler=null: a choice is needed"),
    ("sampler=null,saint", "sampler=null: a choice is needed"),
    ("quantization=null", "type quantization=none"),
    ("distillation=null", "type distillation=none"),
    ("sampler=[full,saint]", "takes one option; type sampler=full, or -m sampler=full,saint"),
    ("~sampler", "~sampler: a group cannot be removed; a choice is needed; type sampler=OPTION"),
    ("~sampler=full", "a group cannot be removed"),
    ("~quant", "type quantization=none"),
    ("~distillation", "type distillation=none"),
    ("~seed", "type seed=0"),
    ("~teacher.run", "type teacher.run=null"),
    ("+smapler=saint", "did you mean 'sampler=saint'?"),
    ("smapler.roots=5", "did you mean 'sampler.roots=5'?"),
    ("train.epochs=5", "did you mean 'trainer.epochs=5'?"),
    ("seeed=5", "did you mean 'seed=5'?"),
    ("epochs=40", "type trainer.epochs=40;"),
    ("+epochs=40", "type trainer.epochs=40;"),
    ("epocs=40", "did you mean 'trainer.epochs=40'?"),
    ("lr=0.1", "type optimizer.lr=0.1;"),
    ("shared=1", "type sampler.shared=1 or architecture.shared=1;"),
    ("heads=4", "type architecture.heads=4;"),
    ("alpha=0.5", "type distillation.logit.alpha=0.5;"),
    ("distillation.alpha=0.5", "name the option too; type distillation.logit.alpha=0.5"),
    ("distillation.lgoit.alpha=1", "distillation 'lgoit' does not exist (did you mean 'logit'?)"),
    ("zzz=1", "'zzz' is neither a group nor a key; groups: dataset, "),
    ("out=here", "'out' is neither a group nor a key; the run's folder is hydra.run.dir=here; "),
    ("seed.x=1", "seed has no parts; type seed=1"),
    ("seed@x=1", "only a group takes '@'; type seed=1"),
    ("dataset/ogb=arxiv", "type dataset=ogb/arxiv"),
    ("trainer.=1", "the key before '=' is incomplete"),
    ("trainer..epochs=1", "the key before '=' is incomplete"),
    ("=1", "the key before '=' is incomplete"),
    ("saint", "'saint' is not key=value; type sampler=saint"),
    ("sampler", "'sampler' is not key=value; type sampler=OPTION, e.g. sampler=cluster"),
    ("seed", "type seed=VALUE"),
    ("+trainer.epochs", "type trainer.epochs=VALUE"),
    ("trian", "'trian' is not key=value (did you mean 'train'?)"),
]


@pytest.mark.parametrize(("typed", "message"), REFUSED)
def test_refused(catalog, typed, message):
    with pytest.raises(UsageError) as raised:
        normalise([typed], catalog)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_verbs_own_keys_are_left_out_and_suggested(catalog):
    own = ("out", "only")
    assert normalise(["only=test", "seed=1", "+out=p.csv"], catalog, own) == ["seed=1"]
    with pytest.raises(UsageError, match=r"did you mean 'only=test'\?.* keys: out, only, seed,"):
        normalise(["onyl=test"], catalog, own)
    with pytest.raises(UsageError, match=r"'only' is neither"):
        normalise(["only=test"], catalog)


def test_all_problems_in_one_message(catalog):
    with pytest.raises(UsageError) as raised:
        normalise(["sampler=siant", "seed=1", "epochs=4", "~sampler"], catalog)
    lines = str(raised.value).splitlines()
    assert [line.split()[0] for line in lines] == ["sampler", "epochs=4:", "~sampler:"]


def test_a_users_group_wins_over_an_alias(folder, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("x: 1")
    assert normalise(["data=mine"], Catalog([folder, tmp_path])) == ["+data=mine"]


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ([], Request(None)),
        (["train", "seed=1"], Request("train", (), ("seed=1",))),
        (["seed=1", "-m", "train", "+x=1"], Request("train", ("--multirun",), ("seed=1", "+x=1"))),
        (
            ["train", "a=1", "--cfg", "job", "b=2"],
            Request("train", ("--cfg", "job"), ("a=1", "b=2")),
        ),
        (["--cfg=job", "train"], Request("train", ("--cfg", "job"))),
        (["-c", "hydra", "check"], Request("check", ("--cfg", "hydra"))),
        (["-cd", "report", "train"], Request("train", ("--config-dir", "report"))),
        (["--config-dir=a=b", "train"], Request("train", ("--config-dir", "a=b"))),
        (["-p", "trainer", "train"], Request("train", ("--package", "trainer"))),
        (["--info", "train"], Request("train", ("--info",))),
        (["--info", "defaults", "train"], Request("train", ("--info", "defaults"))),
        (["train", "-i", "a=1"], Request("train", ("--info",), ("a=1",))),
        (["train", "-h", "--resolve"], Request("train", ("--help", "--resolve"))),
        (["--version"], Request(None, ("--version",))),
        (["--hydra-help"], Request(None, ("--hydra-help",))),
        (["~logger", "+a=1", "train"], Request("train", (), ("~logger", "+a=1"))),
        (["report", "runs/a", "runs/b"], Request("report", (), ("runs/a", "runs/b"))),
        (["completion", "bash"], Request("completion", (), ("bash",))),
        (["_complete", "gnnscale train -"], Request("_complete", (), ("gnnscale train -",))),
    ],
)
def test_parse(catalog, argv, wanted):
    assert parse(argv, catalog) == wanted


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb(catalog, verb):
    assert parse([verb], catalog).verb == verb


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian", "sampler=saint"], "verb 'trian' does not exist (did you mean 'train'?); valid:"),
        (["sampler", "train"], "type sampler=OPTION, e.g. sampler=cluster"),
        (["saint"], "type sampler=saint"),
        (["train", "--epochs", "5"], "--epochs: settings are not flags; type trainer.epochs=5"),
        (["train", "--epochs=5"], "type trainer.epochs=5"),
        (["--epochs", "train"], "type trainer.epochs=VALUE"),
        (["train", "--weight-decay", "0.1"], "type optimizer.weight_decay=0.1"),
        (["train", "--trainer.epochs", "5"], "type trainer.epochs=5"),
        (["train", "--sampler", "saint"], "type sampler=saint"),
        (["train", "--model", "gat"], "type model=gat"),
        (["train", "--seed", "5"], "type seed=5"),
        (
            ["train", "--multi-run"],
            "flag '--multi-run' does not exist (did you mean '--multirun'?)",
        ),
        (["train", "--epocs", "5"], "did you mean 'trainer.epochs=5'?"),
        (["train", "--zzz"], "flag '--zzz' does not exist; valid: --cfg, "),
        (["train", "--config-name", "x"], "--config-name: the primary config is fixed"),
        (["train", "-cn=x"], "-cn: the primary config is fixed"),
        (["train", "--cfg"], "--cfg: type --cfg job | hydra | all"),
        (["train", "--cfg", "jbo"], "--cfg jbo: type --cfg job | hydra | all"),
        (["train", "--package"], "--package: type --package VALUE"),
        (["train", "--resolve=1"], "--resolve takes no value"),
    ],
)
def test_parse_refuses(catalog, argv, message):
    with pytest.raises(UsageError) as raised:
        parse(argv, catalog)
    assert message in str(raised.value)


def test_parse_reports_all_problems(catalog):
    with pytest.raises(UsageError) as raised:
        parse(["trian", "--epochs", "5", "--lr", "1"], catalog)
    assert len(str(raised.value).splitlines()) == 3


def test_parse_loads_a_catalog_only_to_suggest():
    assert parse(["train", "-m", "a=1"]).verb == "train"
    with pytest.raises(UsageError, match="did you mean 'train'"):
        parse(["trian"])


@pytest.mark.process
def test_hydra_accepts_every_normal_form(catalog, folder):
    from hydra import compose, initialize_config_dir

    plain = [
        wanted
        for _, wanted in EQUAL
        if "glob" not in wanted
        and "choice(" not in wanted
        and "range(" not in wanted
        and "launcher" not in wanted
        and "],[" not in wanted
        and wanted.rsplit("[", 1)[0] not in ("experiment=",)
        and not (wanted.startswith(("sampler=", "architecture=", "seed=")) and "," in wanted)
        and wanted != "experiment=[],t1"
    ]
    assert len(plain) > 40
    with initialize_config_dir(str(folder), version_base="1.3"):
        for wanted in plain:
            compose("train", overrides=[wanted])
        composed = compose("train", overrides=normalise(["+distill=[logit,null]"], catalog))
        assert dict(composed.distillation) == {"logit": {"alpha": 1}}
        chosen = [["+sampler=saint", "+model=egc"], ["++sampler=saint", "arch=egc"]]
        first, second = (compose("train", overrides=normalise(o, catalog)) for o in chosen)
        assert first == second == compose("train", overrides=["sampler=saint", "architecture=egc"])
