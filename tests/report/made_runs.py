"""Run folders without training."""

import json

from gnnscale.core.record import Record

CHOICES = {"dataset": "digits", "sampler": "full", "architecture": "gcn", "quantization": "none",
           "recipe": "supervised", "distillation": "[none]"}  # fmt: skip


def seed(run, k, test=0.5, config=None, state="finished", data=None, epochs=(), **values):
    """One seed of a run folder; ``values`` are choices or fields of the record."""
    config = {"distillation": {}, **(config or {})}
    folder = run / f"seed-{k}"
    folder.mkdir(parents=True)
    choices = {**CHOICES, **{g: values.pop(g) for g in CHOICES if g in values}}
    (run / "config.json").write_text(json.dumps({**config, "seed": 0, "seeds": 3}))
    (run / "run.json").write_text(json.dumps({"choices": choices}))
    (folder / "status.json").write_text(json.dumps({"state": state}))
    lines = [json.dumps({"epoch": i, "loss": 2.0, **e}) for i, e in enumerate(epochs)]
    if lines:
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if state != "finished":
        return folder
    latency = values.pop("latency", 2.0)
    metric = {
        "name": values.pop("metric", "accuracy"),
        "train": 1.0,
        "valid": 0.5,
        "test": test,
        "best_epoch": 3,
    }
    Record(
        config=config, seed=k,
        time_s={"epoch_median": 0.5, "total": values.pop("total", 9.0), "phases": {"fit": 4.0}},
        parameters=values.pop("parameters", 1234), model_bytes=values.pop("model_bytes", 4936),
        metric={**metric, "extra": values.pop("extra", {})},
        latency_ms={"p50": latency, "p95": 3.0, "n": 5} if latency else None,
        memory_mib={"rss_peak": 100.0}, environment=values.pop("environment", {}),
        data=data or {"name": choices["dataset"], "edges": 7}, choices=choices, **values,
    ).save(folder / "record.json")  # fmt: skip
    return folder


def three(run, scores, **values):
    """Seeds 0, 1, ... with these test scores."""
    for k, score in enumerate(scores):
        seed(run, k, score, **values)
