"""What can run here: whether a row's options exist in this version and its data is at hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from gnnscale.catalog import Catalog
from gnnscale.core.errors import UsageError
from gnnscale.reproduce.published import Row

GENERATED = "generated"


@dataclass(frozen=True)
class Data:
    """Whether a dataset is at hand. told: what is missing, where to get it and where to put it.

    short: the same in a few words, without paths. fetchable: its files can be downloaded.
    """

    there: bool
    told: str = ""
    short: str = ""
    fetchable: bool = False


def missing(row: Row, catalog: Catalog) -> list[str]:
    """What this version lacks to run a row: nothing once its preset and all its options exist.

    Read from the catalog, so that a row becomes runnable the day its preset is added.
    """

    def unmet(words: tuple[str, ...]) -> Iterator[str]:
        for word in words:
            group, equals, name = word.lstrip("+").partition("=")
            if equals and group in catalog.groups and name not in catalog.options(group):
                yield f"{group}={name}"

    preset = row.experiment in catalog.options("experiment")
    lacking = [*unmet((f"dataset={row.dataset}",)), *unmet(row.needs), *unmet(row.overrides)]
    if not preset:
        lacking += [row.awaits] if row.awaits else []
        lacking.append(f"experiment={row.experiment}")
    return list(dict.fromkeys(lacking))


def data(name: str, catalog: Catalog) -> Data:
    """Whether the files of a dataset option are where its own class looks for them."""
    option = catalog.options("dataset").get(name)
    if option is None:
        return Data(False, f"dataset={name} is not in this version", "not in this version")
    return _probe(name, str(option.path), catalog)


@lru_cache(maxsize=256)
def _probe(name: str, path: str, catalog: Catalog) -> Data:
    from gnnscale.binding import bind

    content = catalog.options("dataset")[name].content
    bound, problems = bind("dataset", "dataset", name, content, frozenset())
    if bound is None or problems:
        return Data(False, "\n".join(problems), problems[0])
    if "download" not in content:
        return Data(True, short=GENERATED)
    source = type(bound)(bound.group, bound.option, bound.cls,
                         {**bound.arguments, "download": False}).make()  # fmt: skip
    try:
        source.locate()
    except UsageError as error:
        urls = list(dict.fromkeys(f.url for f in source.files() if f.url))
        short = f"{urls[0]}{' and others' if len(urls) > 1 else ''}" if urls else "by hand only"
        return Data(False, str(error), short, all(f.url for f in source.files()))
    return Data(True)
