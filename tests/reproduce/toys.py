"""A table of two rows on 60 nodes, as a user would add it."""

import yaml

PRESET = """# @package _global_
# A toy of 60 nodes
defaults:
  - override /dataset: synthetic
dataset: {nodes: 60, degree: 6, classes: 3, features: 8, train: 0.3, valid: 0.3}
trainer: {epochs: 2}
"""
TABLE = {
    "paper": "Nobody, Nothing, 2020",
    "link": "https://example.org",
    "systems": ["toy"],
    "shared": {"experiment": "toy", "dataset": "synthetic", "seeds": 2, "why": "a toy"},
    "rows": {
        "a": {"label": "A", "judged": True, "tolerance": 1.0,
              "published": {"value": 1.0, "source": "here", "verified": "code", "n": 5}},
        "b": {"label": "B", "overrides": ["architecture=mlp"], "against": {"row": "a"}},
    },
}  # fmt: skip


def write(root, table, name="toy"):
    """A user's table."""
    folder = root / "gnnscale_conf/table"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"# A table\n{yaml.safe_dump(table)}")
