"""Write the README's method table from the option files: python scripts/readme_methods.py."""

import re
from pathlib import Path

from gnnscale.catalog import Catalog

GROUPS = ("dataset", "sampler", "architecture", "distillation", "quantization")
README = Path(__file__).resolve().parent.parent / "README.md"
START, END = "<!-- methods -->", "<!-- /methods -->"

catalog = Catalog.load()
lines = ["| group | option | what it is | paper |", "|---|---|---|---|"]
for group in GROUPS:
    for name, option in catalog.options(group).items():
        if name != "none":
            lines.append(f"| {group} | `{name}` | {option.summary} | {option.paper} |")
table = "\n".join([START, *lines, END])
text = README.read_text()
README.write_text(re.sub(f"{START}.*{END}", lambda _: table, text, flags=re.DOTALL))
