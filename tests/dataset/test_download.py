"""Against a server on this machine whose behaviour each test scripts; nothing else is contacted."""

import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnnscale.core.errors import DataError
from gnnscale.dataset import _download
from gnnscale.dataset._download import download, unpack
from gnnscale.dataset._files import Remote, locate, roots

BODY = bytes(range(256)) * 4000
SUM = hashlib.sha256(BODY).hexdigest()


class Server:
    """Answers request k with script[k] (the last one from then on) and remembers what was asked.

    A step: {status, etag, cut: send so many bytes of what was promised, ranges: honour them,
    length: what to promise, pause: seconds before the rest}.
    """

    def __init__(self, *script, body=BODY):
        self.script, self.body, self.asked, self.sent = list(script) or [{}], body, [], 0
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                step = owner.script[min(len(owner.asked), len(owner.script) - 1)]
                owner.asked.append(
                    {"path": self.path, **{k.lower(): v for k, v in self.headers.items()}}
                )
                owner.answer(self, step)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/set.npz"

    def answer(self, handler, step):
        status, etag = step.get("status", 200), step.get("etag", '"one"')
        if status >= 300:
            handler.send_response(status)
            if "location" in step:
                handler.send_header("Location", step["location"])
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        headers, start = handler.headers, 0
        if step.get("ranges", True) and headers.get("If-Range") == etag and headers.get("Range"):
            start = int(headers["Range"].removeprefix("bytes=").rstrip("-"))
            status = 206
        rest = self.body[start:]
        handler.send_response(status)
        handler.send_header("ETag", etag)
        handler.send_header("Content-Length", str(step.get("length", len(rest))))
        handler.end_headers()
        cut = step.get("cut", len(rest))
        handler.wfile.write(rest[:cut])
        handler.wfile.flush()
        self.sent += min(cut, len(rest))
        if "pause" in step:
            time.sleep(step["pause"])
        if cut < len(rest):
            handler.close_connection = True

    def __enter__(self):
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(_download, "BACKOFF_S", 0.01)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "set" / "set.npz"


def leftovers(target):
    return sorted(p.name for p in target.parent.iterdir()) if target.parent.exists() else []


def test_a_file_arrives_whole_and_its_sum_is_recorded(target):
    with Server() as server:
        download(server.url, target)
        download(server.url, target)
    assert target.read_bytes() == BODY
    assert len(server.asked) == 1, "what is there is not fetched again"
    about = json.loads(Path(f"{target}.sha256.json").read_text())
    assert (about["sha256"], about["size"], about["verified"]) == (SUM, len(BODY), False)
    assert leftovers(target) == ["set.npz", "set.npz.sha256.json"]


def test_a_known_sum_is_verified(target):
    with Server() as server:
        download(server.url, target, sha256=SUM, size=len(BODY))
    assert json.loads(Path(f"{target}.sha256.json").read_text())["verified"] is True


def test_a_truncated_body_is_gone_on_from(target):
    with Server({"cut": 300_000}, {"cut": 500_000}, {}) as server:
        download(server.url, target, sha256=SUM)
    assert target.read_bytes() == BODY
    assert [a.get("range") for a in server.asked] == [None, "bytes=300000-", "bytes=800000-"]
    assert server.sent == len(BODY), "no byte was sent twice"


def test_a_new_command_goes_on_from_where_the_last_one_gave_up(target):
    with Server({"cut": 400_000}, {"status": 503}) as server:
        with pytest.raises(DataError, match=r"400000 bytes are kept in .*set\.npz\.part"):
            download(server.url, target)
        assert not target.exists()
        server.script = [{}]
        download(server.url, target)
    assert target.read_bytes() == BODY
    assert server.asked[-1]["range"] == "bytes=400000-"


def test_a_server_that_ignores_ranges_sends_all_again(target):
    with Server({"cut": 400_000}, {"ranges": False}) as server:
        download(server.url, target)
    assert target.read_bytes() == BODY
    assert server.sent == 400_000 + len(BODY)


def test_a_file_that_changed_meanwhile_is_fetched_anew(target):
    with Server({"cut": 400_000, "etag": '"old"'}, {"etag": '"new"'}) as server:
        download(server.url, target, sha256=SUM)
    assert target.read_bytes() == BODY
    assert server.asked[1]["if-range"] == '"old"'


def test_a_part_longer_than_the_file_is_dropped(target):
    with Server({"status": 416}, {}) as server:
        target.parent.mkdir()
        Path(f"{target}.part").write_bytes(BODY + BODY)
        Path(f"{target}.part.json").write_text(
            json.dumps({"url": server.url, "validator": '"one"'})
        )
        download(server.url, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_an_error_of_the_server_is_final(target, status):
    with Server({"status": status}) as server, pytest.raises(DataError, match=f"answers {status}"):
        download(server.url, target)
    assert len(server.asked) == 1
    assert leftovers(target) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_an_error_that_may_pass_is_tried_again(target, status):
    with Server({"status": status}, {"status": status}, {}) as server:
        download(server.url, target)
    assert len(server.asked) == 3
    with Server({"status": status}) as server:
        other = target.with_name("other")
        with pytest.raises(DataError, match=f"the server answers {status}; 0 bytes are kept"):
            download(server.url, other)
        assert len(server.asked) == _download.TRIES


def test_a_silent_server_is_not_waited_for_for_ever(target, monkeypatch):
    monkeypatch.setattr(_download, "TIMEOUT_S", 1.0)  # only here: a busy machine is silent, too
    start = time.monotonic()
    with Server({"cut": 1000, "pause": 60}, {}) as server:
        download(server.url, target)
    assert target.read_bytes() == BODY
    assert time.monotonic() - start < 50
    assert server.asked[1]["range"] == "bytes=1000-"


def test_nobody_there(target):
    with pytest.raises(DataError, match="can't be downloaded"):
        download("http://127.0.0.1:9/set.npz", target)


def test_a_wrong_sum_keeps_nothing(target):
    with Server() as server, pytest.raises(DataError, match=f"sha256 {SUM}, the published file"):
        download(server.url, target, sha256="0" * 64)
    assert leftovers(target) == []


def test_a_wrong_size_keeps_nothing(target):
    with (
        Server() as server,
        pytest.raises(DataError, match=f"{len(BODY)} bytes, the published file has 5"),
    ):
        download(server.url, target, size=5)
    assert leftovers(target) == []


def test_a_changed_source_is_told(target, caplog):
    caplog.set_level("WARNING", "gnnscale")
    with Server() as server:
        download(server.url, target)
        target.unlink()
        server.body = BODY[::-1]
        download(server.url, target)
    assert "differs from what was downloaded earlier" in caplog.text


def test_redirects_are_followed(target):
    with Server() as goal, Server({"status": 302, "location": goal.url}) as server:
        download(server.url, target, sha256=SUM)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "/etc/passwd"])
def test_other_schemes_are_refused(target, url):
    with pytest.raises(DataError, match="only http and https"):
        download(url, target)


@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    note=st.one_of(st.binary(max_size=60), st.sampled_from([b"[]", b"null", b'{"url": 1}', b"{}"]))
)
def test_a_damaged_note_means_starting_anew(tmp_path_factory, note):
    target = tmp_path_factory.mktemp("d") / "set.npz"
    Path(f"{target}.part").write_bytes(b"rubbish")
    Path(f"{target}.part.json").write_bytes(note)
    with Server(body=BODY[:1000]) as server:
        download(server.url, target)
    assert target.read_bytes() == BODY[:1000]


def test_a_full_disk_is_told_and_what_came_is_kept(target, monkeypatch):
    def full(reply, file, start, length):
        file.write(b"x" * 10)
        raise OSError(28, "No space left on device")

    with Server() as server:
        with monkeypatch.context() as patch:
            patch.setattr(_download, "_stream", full)
            with pytest.raises(DataError, match=r"the disk is full \(\d+ MiB free\)"):
                download(server.url, target)
        assert not target.exists()


# -- several processes --------------------------------------------------------------------------

CHILD = (
    "import sys; from gnnscale.dataset._download import download; from pathlib import Path; "
    "download(sys.argv[1], Path(sys.argv[2]))"
)


def child(url, target):
    return subprocess.Popen([sys.executable, "-c", CHILD, url, str(target)], stderr=subprocess.PIPE)


def test_a_kill_in_the_middle_leaves_no_file_and_the_next_command_goes_on(target):
    with Server({"cut": 600_000, "pause": 30}, {}) as server:
        process = child(server.url, target)
        part = Path(f"{target}.part")
        for _ in range(500):
            if part.exists() and part.stat().st_size >= 500_000:
                break
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not target.exists()
        kept = part.stat().st_size
        assert kept > 0
        download(server.url, target, sha256=SUM)
    assert target.read_bytes() == BODY
    assert server.asked[1]["range"] == f"bytes={kept}-"


def test_three_processes_want_one_file_and_one_fetches_it(target):
    with Server({"cut": len(BODY), "pause": 0.0}) as server:
        processes = [child(server.url, target) for _ in range(3)]
        for process in processes:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said.decode()
    assert target.read_bytes() == BODY
    assert len(server.asked) == 1


# -- archives -----------------------------------------------------------------------------------


def archive(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def test_files_that_share_an_archive_are_fetched_once(tmp_path):
    body = archive({"arxiv/raw/edge.csv": b"0,1\n", "arxiv/raw/x.csv": b"1.0\n", "../evil": b"no"})
    with Server(body=body) as server:
        files = [
            Remote(f"raw/{n}", server.url, member=f"arxiv/raw/{n}") for n in ("edge.csv", "x.csv")
        ]
        place = locate(str(tmp_path), "arxiv", files, True)
    assert place == tmp_path / "arxiv"
    assert len(server.asked) == 1
    assert (place / "raw/edge.csv").read_bytes() == b"0,1\n"
    assert not (tmp_path / "evil").exists()
    assert sorted(p.name for p in place.iterdir()) == ["raw", "set.npz.sha256.json"]


def test_a_damaged_archive_and_a_missing_member(tmp_path):
    path = tmp_path / "a.zip"
    whole = archive({"a": os.urandom(5000)})
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"lacks .*'b'"):
        unpack(path, {"b": tmp_path / "b"})
    flipped = bytearray(whole)
    flipped[2000] ^= 255
    path.write_bytes(flipped)
    with pytest.raises(DataError, match=r"damaged .* and removed"):
        unpack(path, {"a": tmp_path / "a"})
    assert list(tmp_path.iterdir()) == []


# -- data roots ---------------------------------------------------------------------------------


def test_roots_in_order(monkeypatch):
    monkeypatch.setenv("GNNSCALE_DATA", "c")
    given = os.pathsep.join(["a", "b"])
    assert roots(given) == [Path("a"), Path("b"), Path("c"), Path("data")]
    monkeypatch.delenv("GNNSCALE_DATA")
    assert roots(None) == [Path("data")]


def test_all_files_are_wanted_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "set").mkdir(parents=True)
    second.mkdir()
    (first / "set" / "a").touch()
    monkeypatch.setenv("GNNSCALE_DATA", str(second))
    files = [Remote("a"), Remote("b")]
    with pytest.raises(DataError) as caught:
        locate(str(first), "set", files, True)
    message = str(caught.value)
    assert message.startswith(f"dataset.root={first}: files of {first / 'set'} are missing: b;")
    for place in (first, first / "set", second, second / "set", tmp_path / "data"):
        assert str(place) in message
    assert "no direct download; type dataset.root=DIR or GNNSCALE_DATA=DIR" in message
    for name in "ab":
        (second / name).touch()
    assert locate(str(first), "set", files, False) == second


def test_without_download_nothing_is_asked_and_the_source_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Server() as server:
        files = [Remote("set.npz", server.url)]
        with pytest.raises(
            DataError, match=r"set\.npz; searched .*can be had from http.*download=true"
        ):
            locate(str(tmp_path / "root"), "set", files, False)
        assert server.asked == []
        assert list(tmp_path.iterdir()) == []
        assert locate(str(tmp_path / "root"), "set", files, True) == tmp_path / "root" / "set"
    assert (tmp_path / "root" / "set" / "set.npz").read_bytes() == BODY


def test_no_folder_to_write_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GNNSCALE_DATA", raising=False)
    (tmp_path / "data").touch()  # a file where ./data would be
    blocked = tmp_path / "data" / "root"
    with Server() as server:
        with pytest.raises(DataError, match="none of these folders can be written"):
            locate(str(blocked), "set", [Remote("set.npz", server.url)], True)
        assert server.asked == []
