import logging

import pytest
from toys import PRESET, TABLE, write

from gnnscale import jobs
from gnnscale.catalog import Catalog, packaged
from gnnscale.reproduce import verb


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to stand in, with a user's own preset ``toy`` and table ``toy``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GNNSCALE_CONFIG_DIR", raising=False)
    monkeypatch.delenv("GNNSCALE_DATA", raising=False)
    write(tmp_path, TABLE)
    (tmp_path / "gnnscale_conf/experiment").mkdir()
    (tmp_path / "gnnscale_conf/experiment/toy.yaml").write_text(PRESET)
    return tmp_path


@pytest.fixture
def catalog(here):
    """The packaged options and the user's."""
    return Catalog([packaged(), here / "gnnscale_conf"])


@pytest.fixture
def reproduce(here, catalog):
    """Run ``gnnscale reproduce``; (exit code, what it said)."""

    def run(*words):
        logging.getLogger("gnnscale").handlers.clear()  # it writes to this test's standard error
        jobs.set_up_log()
        said = []
        code = verb.reproduce(words, Catalog(catalog.folders), said.append)
        return code, "\n".join(said)

    return run
