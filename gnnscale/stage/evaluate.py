"""Score the selected weights on every split, time a pass, and write the record."""

import numpy as np
import torch

from gnnscale.core.data import GraphData
from gnnscale.core.environment import environment
from gnnscale.core.record import Record
from gnnscale.core.site import fake, sites
from gnnscale.core.values import NonNegative
from gnnscale.stage._base import Stage
from gnnscale.train.loop import Run


class Evaluate(Stage):
    """The only stage that reads test labels, once, after selection.

    Where some test nodes are unseen in training (``dataset.unseen``), ``extra`` holds ``tran``, the
    score of the others on the graph without them, ``ind``, that of the unseen ones on the whole
    graph, and ``prod``, both by their shares, which is the test score (GLNN, Zhang et al., ICLR
    2022, sec. 5.1); training and validation nodes are scored on the graph without the unseen.

    Latency is that of a full inference pass (every node, inputs resident), the passes repeated
    until ``seconds`` are over, at least three times, after one that is not counted.

    Args:
        seconds: how long to time passes.
    """

    def __init__(self, seconds: NonNegative = 1.0):
        self.seconds = seconds

    def __call__(self, run: Run) -> None:
        """Evaluate ``run`` and write ``record.json``."""
        everyone = torch.arange(run.data.items)
        with run.meter.phase("evaluate"):
            whole = self.scores(run, run.data)
            scores = {split: whole[split] for split in ("train", "valid", "test")}
            extra = {}
            if "unseen" in run.data.splits:
                observed = self.scores(run, run.valid_data)
                share = len(run.data.splits["unseen"]) / len(run.data.splits["test"])
                extra = {"tran": observed["test"], "ind": whole["unseen"]}
                extra["prod"] = (1 - share) * extra["tran"] + share * extra["ind"]
                scores = {**observed, "test": extra["prod"]}
        latency = self.latency(run, everyone)
        best = run.trainer.selection == "best" and run.patience.best_epoch >= 0
        record = Record(
            config=dict(run.config),
            choices=dict(run.choices),
            seed=run.seed,
            metric={
                "name": run.data.task.metric,
                **scores,
                "best_epoch": run.patience.best_epoch if best else run.epoch - 1,
                "extra": {**run.extra, **run.kept.get("found", {}), **extra},
            },
            time_s=run.meter.times(),
            latency_ms=latency,
            memory_mib=run.meter.memory(),
            parameters=parameter_count(run.model),
            model_bytes=model_bytes(run.model),
            sites=widths(run.model),
            environment=environment(run.device, run.hardware.threads),
            data={
                "name": run.data.name,
                "level": run.data.task.level,
                "items": run.data.items,
                "nodes": run.data.nodes,
                "edges": run.data.graph.n_edges,
                "features": run.data.shape.features,
                "classes": run.data.task.classes,
                "kind": run.data.task.kind,
                "facts": dict(run.data.facts),
            },
            notes=run.notes,
        )
        record.save(run.folder / "record.json")
        run.listen()
        run.listeners.record(record)

    def scores(self, run: Run, data: GraphData) -> dict[str, float]:
        """The score of every split of a graph."""
        everyone = torch.arange(data.items)
        logits = run.inference(run.model, data, everyone, run.device)
        y, score = data.y.to(run.device), data.task.score
        at = {name: rows.to(run.device) for name, rows in data.splits.items()}
        return {name: score(logits[rows], y[rows]) for name, rows in at.items()}

    def latency(self, run: Run, rows: torch.Tensor) -> dict | None:
        """Percentiles of full inference passes, or None for a model whose speed is not its own."""
        if fake(run.model):
            run.notes.append("latency_ms: not measured, fake quantization runs float kernels")
            return None
        passes: list[float] = []
        run.inference(run.model, run.data, rows, run.device)
        while len(passes) < 3 or (sum(passes) < self.seconds and len(passes) < 1000):
            start = run.meter.now()
            run.inference(run.model, run.data, rows, run.device)
            passes.append(run.meter.now() - start)
        p50, p95 = np.percentile(np.array(passes) * 1000, [50, 95])
        return {"p50": float(p50), "p95": float(p95), "n": len(passes)}


def widths(model: torch.nn.Module) -> dict[str, int]:
    """Bits of every site that holds codes, by its name."""
    filled = ((name, getattr(site.quantizer, "bits", None)) for name, site in sites(model))
    return {name: bits for name, bits in filled if bits is not None}


def parameter_count(model: torch.nn.Module) -> int:
    """Numbers that were learned, those among them that are codes by now included."""
    codes = sum(getattr(site.quantizer, "entries", 0) for _, site in sites(model))
    return codes + sum(p.numel() for p in model.parameters())


def model_bytes(model: torch.nn.Module) -> int:
    """Bytes of the parameters as they are stored: codes with their scales where they are codes,
    weights of a site with fake quantization at the width that they would have.

    What a quantizer learns (scales of binary weights) counts as parameters; ``beside`` is how many
    numbers it computes from the weights and would store with the codes.
    """
    bits = {name: 8 * p.element_size() for name, p in model.named_parameters()}
    stored, beside = 0, 0
    for name, site in sites(model):
        if getattr(site.quantizer, "integer", False):
            stored += sum(b.numel() * b.element_size() for b in site.quantizer.buffers())
        elif site.role == "weight" and hasattr(site.quantizer, "bits"):
            owner = name.rpartition(".")[0]
            bits[f"{owner}.{site.of}" if owner else site.of] = site.quantizer.bits
            beside += 32 * getattr(site.quantizer, "beside", 0)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    packed = beside + sum(sizes[name] * width for name, width in bits.items())
    return stored - (-packed // 8)
