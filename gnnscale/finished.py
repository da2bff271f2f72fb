"""A finished run taken up again: predictions, integer models made of it, and re-scoring."""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnnscale import compose, session
from gnnscale.catalog import Catalog
from gnnscale.compose import Plan
from gnnscale.core.data import GraphData, Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Scaled
from gnnscale.core.ops.bits import Signs
from gnnscale.core.ops.coded import Coded, SparseCodes
from gnnscale.core.record import Record, write_bytes, write_json
from gnnscale.core.site import sites
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait
from gnnscale.quantization.integer import describe

log = logging.getLogger("gnnscale")

CHANGEABLE = ("dataset", "hardware", "inference", "recipe")
"""Groups that may differ from what a run was trained with; the rest is in its weights."""
PREPARED = {"features", "dimensions", "normalize", "reverse_edges", "self_loops"}
"""Options of a dataset that a new graph takes over from the graph of the run."""
FORMATS = (".csv", ".parquet")


def run_root(folder: Path) -> tuple[Path, int | None]:
    """(run folder, seed) of a path to a run folder or to one of its seeds."""
    name = folder.name
    if (
        name.startswith("seed-")
        and name[5:].isdecimal()
        and (folder.parent / "config.json").exists()
    ):
        return folder.parent, int(name[5:])
    return folder, None


def finished_seeds(folder: Path) -> list[int]:
    """Seeds with a record, ascending. Raises UsageError if there is none."""
    found = sorted(int(p.parent.name[5:]) for p in folder.glob("seed-*/record.json"))
    if not found:
        raise UsageError(
            f"run={folder}: no finished seed in there; type gnnscale train resume={folder}"
        )
    return found


def take_up(folder: Path, typed: Sequence[str], catalog: Catalog, trusted: frozenset[str]) -> Plan:
    """The checked plan of a run folder with some settings changed by overrides.

    A typed ``group=option`` replaces the whole group, ``group.key=value`` that key only; everything
    else is what the run was trained with. Raises UsageError if another group is touched.
    """
    stored = session.load_plan(folder, catalog, trusted)
    keys = [o.lstrip("+~").partition("=")[0] for o in typed]
    for key in keys:
        if key.split(".")[0] not in CHANGEABLE:
            raise UsageError(
                f"{key}: belongs to what run={folder} was trained with and can't be changed; "
                f"valid: {', '.join(CHANGEABLE)} and their keys"
            )
    if not typed:
        return stored
    kept = [f"{g}={stored.choices[g]}" for g in CHANGEABLE
            if g not in keys and stored.choices.get(g)]  # fmt: skip
    config, choices = compose.compose([*kept, *typed], catalog)
    merged, chosen = dict(stored.config), dict(stored.choices)
    for group in {key.split(".")[0] for key in keys}:
        if group in keys:
            merged[group], chosen[group] = config[group], choices[group]
            if group == "dataset":  # another graph, prepared as the one that was trained on
                for name in PREPARED & stored.config[group].keys() & config[group].keys():
                    if f"dataset.{name}" not in keys:
                        merged[group] = {**merged[group], name: stored.config[group][name]}
        else:
            merged[group] = json.loads(json.dumps(merged[group]))
            for key in (k for k in keys if k.startswith(f"{group}.")):
                _copy(config, merged, key.split("."))
    return compose.check(merged, chosen, catalog, trusted, taught=False)


def _copy(source: Mapping[str, Any], target: dict[str, Any], path: Sequence[str]) -> None:
    """Set the value at a dotted path to that of another configuration."""
    *above, last = path
    for name in above:
        source, target = source[name], target[name]
    target[last] = source[last]


# -- predictions --------------------------------------------------------------------------------


def predict(
    folder: Path,
    typed: Sequence[str],
    seed: int | None,
    out: Path | None,
    catalog: Catalog,
    trusted: frozenset[str],
    only: str | None = None,
) -> Path:
    """Write what a finished run says of every node, or of some; the file it was written to.

    Columns: ``id`` (the source's own node id), ``split``, ``prediction`` (class name, or names
    joined by ``;``), and ``p_<class>``: softmax for one class per node, sigmoid for several; of a
    regression only ``value_<k>``. At graph level a line is a graph.
    ``typed`` may name another graph of the same schema: as many features and, where both name
    them, the same feature columns and classes. ``only``: a part of the split, or a file with an id
    per line or a table with a column ``id``, whose order the lines then have.
    """
    folder, own = run_root(folder)
    plan = session.load_plan(folder, catalog, trusted)
    done = finished_seeds(folder)
    seed = own if seed is None else seed
    seed = done[0] if seed is None else seed
    if seed not in done:
        raise UsageError(f"seed={seed}: not finished in {folder}; valid: {_listed(done)}")
    where = folder / f"seed-{seed}"
    target = where / "predictions.csv" if out is None else out
    if target.suffix not in FORMATS:
        raise UsageError(f"out={target}: unknown format; valid: a name ending in .csv or .parquet")
    record = Record.load(where / "record.json")
    plan = take_up(folder, _with_classes(typed, record), catalog, trusted)
    about = record.data
    run = compose.build(plan, seed, where, shape=Shape(about["features"], about["classes"]))
    same_schema(run.data, record)
    compose.take_up(plan, run, where)
    asked = _asked(run.data, only)
    logits = run.inference(run.model, run.data, asked, run.device).float().cpu()
    _write(run.data, asked, logits, about["kind"], about["facts"].get("classes"), target)
    return target


def _asked(data: GraphData, only: str | None) -> torch.Tensor:
    """The items that are asked for. Raises UsageError where ``only`` names none, or others."""
    if only is None:
        return torch.arange(data.items)
    if only in data.splits:
        found = data.splits[only].sort().values
        if not len(found):
            raise UsageError(f"only={only}: {data.name} has no nodes or graphs in that part")
        return found
    source = Path(only)
    if not source.is_file():
        parts = ", ".join(f"only={name}" for name in data.splits if len(data.splits[name]))
        raise UsageError(
            f"only={only}: neither a part of the split nor a file; valid: {parts or 'no part here'}"
            ", or a file with an id per line or a table with a column id"
        )
    wanted = _ids(source)
    known = data.names if data.names is not None else range(data.items)
    place = {str(name): k for k, name in enumerate(known)}
    strangers = [name for name in wanted if name not in place]
    if strangers or not wanted:
        said = f"{strangers[0]!r} is not an id of {data.name}" if strangers else "holds no id"
        more = f" (nor are {len(strangers) - 1} more)" if len(strangers) > 1 else ""
        raise UsageError(f"only={only}: {said}{more}; the ids are those of gnnscale predict")
    return torch.tensor([place[name] for name in wanted])


def _ids(source: Path) -> list[str]:
    """Ids as text, of a table's column ``id`` or of the lines of a file."""
    import pandas as pd

    try:
        if source.suffix == ".parquet":
            table = pd.read_parquet(source)
        elif source.suffix in (".csv", ".tsv"):
            table = pd.read_csv(source, sep="\t" if source.suffix == ".tsv" else ",", dtype=str)
        else:
            lines = source.read_text("utf-8").splitlines()
            return [line.strip() for line in lines if line.strip()]
        return [str(name) for name in table["id"]]
    except KeyError:
        raise UsageError(f"only={source}: has no column id; valid: a table that has one, or a file "
                         "of another ending with an id per line") from None  # fmt: skip
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"only={source}: can't be read ({error})") from error


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(f"seed={s}" for s in seeds)


def _with_classes(typed: Sequence[str], record: Record) -> list[str]:
    """A new custom graph gets the class order of the training graph, unless one is typed."""
    names = record.data["facts"].get("classes")
    custom = any(o.lstrip("+") == "dataset=custom" for o in typed)
    if not custom or not names or any(o.startswith("dataset.classes=") for o in typed):
        return list(typed)
    quoted = ",".join(json.dumps(str(name)) for name in names)
    return [*typed, f"dataset.classes=[{quoted}]"]


def same_schema(data: GraphData, record: Record) -> None:
    """Raise UsageError unless ``data`` has the features and classes that a run was trained on."""
    trained, facts = record.data, record.data["facts"]
    width = data.x.shape[1]
    if width != trained["features"]:
        raise UsageError(
            f"dataset: {data.name} has {width} features per node, the run was trained on "
            f"{trained['features']} ({trained['name']}); give a graph with the same columns and "
            "the same dataset.features"
        )
    for key, what in (("columns", "feature columns"), ("classes", "classes")):
        mine, theirs = data.facts.get(key), facts.get(key)
        if mine and theirs and list(mine) != list(theirs):
            different = [
                f"{a!r} where {b!r} was" for a, b in zip(mine, theirs, strict=False) if a != b
            ]
            said = different[0] if different else f"{len(mine)} where there were {len(theirs)}"
            raise UsageError(
                f"dataset: {data.name} has other {what} than the run was trained on: {said}; "
                "give them the same names in the same order"
            )


def _write(
    data: GraphData,
    asked: torch.Tensor,
    logits: torch.Tensor,
    kind: str,
    names: Sequence[str] | None,
    target: Path,
) -> None:
    import pandas as pd

    classes = [str(n) for n in names] if names else [str(c) for c in range(logits.shape[1])]
    ids = np.arange(data.items) if data.names is None else np.asarray(data.names)
    split = np.full(data.items, "", object)
    for name, rows in data.splits.items():
        split[rows.numpy()] = name
    ids, split = ids[asked.numpy()], split[asked.numpy()]
    if kind == "regression":
        table = pd.DataFrame({"id": ids, "split": split})
        table = table.join(pd.DataFrame(logits.numpy(), columns=[f"value_{c}" for c in classes]))
        return _save(table, target)
    if kind == "single":
        p = logits.softmax(1).numpy()
        said = np.array(classes, object)[logits.argmax(1).numpy()]
    else:
        p = logits.sigmoid().numpy()
        said = [";".join(np.array(classes, object)[row]) for row in (logits > 0).numpy()]
    table = pd.DataFrame({"id": ids, "split": split, "prediction": said})
    table = table.join(pd.DataFrame(p, columns=[f"p_{c}" for c in classes]))
    _save(table, target)


def _save(table: Any, target: Path) -> None:
    buffer = io.BytesIO()
    if target.suffix == ".csv":
        table.to_csv(buffer, index=False, float_format="%.6g")
    else:
        try:
            table.to_parquet(buffer, index=False)
        except ImportError:
            raise UsageError(
                f"out={target}: Parquet needs pyarrow; type pip install pyarrow, or out=FILE.csv"
            ) from None
    try:
        write_bytes(target, buffer.getvalue())
    except OSError as error:
        raise UsageError(f"out={target}: can't be written ({error.strerror})") from error


# -- integer models -----------------------------------------------------------------------------


def convert(
    folder: Path, out: Path | None, typed: Sequence[str], catalog: Catalog, trusted: frozenset[str]
) -> tuple[Path, list[dict[str, Any]]]:
    """Make integer models of a finished run with fake quantization, in a run folder of their own.

    Returns the folder and, by seed, how the integer model compares with what it was made of:
    ``agree``, the share of items with the same predicted class; ``codes``, the share of equal codes
    and of those one and more apart, over all activation sites in a pass over the whole graph;
    ``logits``, the largest difference. They are in ``seed-<k>/codes.json``, too.
    """
    folder, own = run_root(folder)
    stored = take_up(folder, typed, catalog, trusted)
    seeds = [own] if own is not None else finished_seeds(folder)
    source = _trained(stored, seeds[0], folder)
    described = describe(source.model, stored.choices.get("quantization"))
    out = folder.with_name(f"{folder.name}-integer") if out is None else out
    config, _ = compose.compose(["recipe=convert"], catalog)
    content = dict(catalog.options("quantization")["integer"].content)
    merged = {
        **stored.config,
        "run": str(folder.resolve()),
        "quantization": {**content, **described},
    }
    kept = [n for n, b in _stages(stored) if b.cls.lasting and Trait.CALIBRATION not in b.cls.gives]
    merged["recipe"] = _pointed(config["recipe"], folder, kept)
    merged["teacher"] = {**(merged.get("teacher") or {}), "run": None}
    merged["distillation"] = {}
    chosen = {**stored.choices, "quantization": "integer", "recipe": "convert",
              "distillation": ["none"]}  # fmt: skip
    plan = compose.check(merged, chosen, catalog, trusted)
    session.train(plan, out, seeds, {"command": "gnnscale convert", "overrides": list(typed)})
    found = []
    for seed in seeds:
        before, after = _trained(stored, seed, folder), _trained(plan, seed, out)
        about = {"seed": seed, **compared(before, after)}
        write_json(out / f"seed-{seed}" / "codes.json", about)
        found.append(about)
    return out, found


def _trained(plan: Plan, seed: int, folder: Path) -> Any:
    """The finished run of one seed, with its weights."""
    where = folder / f"seed-{seed}"
    about = Record.load(where / "record.json").data
    run = compose.build(plan, seed, where, shape=Shape(about["features"], about["classes"]))
    compose.take_up(plan, run, where)
    run.model.eval()
    return run


def compared(before: Any, after: Any) -> dict[str, Any]:
    """How an integer model's pass over the whole graph differs from that of its fake codes."""
    seen: list[dict[str, Any]] = []
    logits = []
    for run in (before, after):
        codes: dict[str, Any] = {}
        hooks = [site.register_forward_hook(partial(_note, codes, name))
                 for name, site in sites(run.model) if site.role != "weight"]  # fmt: skip
        everyone = torch.arange(run.data.items)
        logits.append(run.inference(run.model, run.data, everyone, run.device).float())
        seen.append(codes)
        for hook in hooks:
            hook.remove()
    apart = torch.zeros(3)
    for name, ours in seen[1].items():
        theirs = seen[0].get(name)
        if theirs is not None and theirs.shape == ours.shape:
            d = (ours - theirs).abs()
            apart += torch.stack([(d == 0).sum(), (d == 1).sum(), (d > 1).sum()])
    share = (apart.double() / apart.sum().clamp(min=1)).tolist()
    same = logits[0].argmax(1) == logits[1].argmax(1)
    return {
        "agree": same.double().mean().item(),
        "codes": dict(zip(("equal", "one_apart", "more_apart"), share, strict=True)),
        "logits": (logits[0] - logits[1]).abs().max().item(),
    }


def _note(codes: dict[str, Any], name: str, site: Any, given: Any, out: Any) -> None:
    """Keep the codes that a site handed on, as whole numbers."""
    rows = out.rows if isinstance(out, Scaled) else out
    if isinstance(rows, SparseCodes | SparseRows) or name in codes:
        return
    values = rows.values() if isinstance(rows, Coded | Signs) else rows
    grid = getattr(site.quantizer, "grid", None)  # signs have none
    codes[name] = values if grid is None else (values / grid.scale).round()


# -- re-scoring ---------------------------------------------------------------------------------


def rescoring(
    folder: Path, typed: Sequence[str], catalog: Catalog, trusted: frozenset[str]
) -> tuple[Plan, list[int]]:
    """The plan that evaluates a finished run's weights again, and the seeds it has."""
    folder, own = run_root(folder)
    plan = take_up(folder, [o for o in typed if o != "recipe=evaluate"], catalog, trusted)
    config, _ = compose.compose(["recipe=evaluate"], catalog)
    merged = {**plan.config, "run": str(folder.resolve())}
    merged["recipe"] = _pointed(config["recipe"], folder, _lasting(plan))
    # what only training reads: the teacher and the terms that compare with it
    merged["teacher"] = {**(merged.get("teacher") or {}), "run": None}
    merged["distillation"] = {}
    chosen = {**plan.choices, "recipe": "evaluate", "distillation": ["none"]}
    seeds = [own] if own is not None else finished_seeds(folder)
    return compose.check(merged, chosen, catalog, trusted), seeds


def _lasting(plan: Plan) -> list[Any]:
    """The stages of a recipe that alter how a finished run predicts."""
    return [node for node, bound in _stages(plan) if bound.cls.lasting]


def _stages(plan: Plan) -> list[tuple[Any, Any]]:
    """A recipe's stages: what was typed, and the bound option."""
    return list(zip(plan.config["recipe"]["stages"], plan.parts["recipe"], strict=True))


def _pointed(recipe: Mapping[str, Any], folder: Path, between: list[Any]) -> dict[str, Any]:
    """The recipe, every stage that reads a run pointed at ``folder``, others before its last."""
    stages = [{**s, "run": str(folder.resolve())} if "run" in s else s for s in recipe["stages"]]
    return {**recipe, "stages": [*stages[:-1], *between, stages[-1]]}
