"""A pinned data set arrives whole and unharmed, or not at all."""

import hashlib
import json
import random
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks import _data
from tasks._data import DamagedFile, DataUnavailable, fetch

ORIGINAL, CONVERTED = b"original bytes" * 5000, b'{"converted": true}'
ENTRY = {"repository": "someone/something", "commit": "c0ffee", "path": "data/things.bin", "here": "world/things.json",
         "sha256": hashlib.sha256(ORIGINAL).hexdigest(), "bytes": len(ORIGINAL),
         "here_sha256": hashlib.sha256(CONVERTED).hexdigest(), "here_bytes": len(CONVERTED)}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server on this machine in place of the pinned address; its folder, with the file in place."""
    folder = tmp_path / "site"
    file = folder / "someone" / "something" / "c0ffee" / "data" / "things.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(ORIGINAL)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps([ENTRY]))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        monkeypatch.setattr(_data, "MANIFEST", manifest)
        monkeypatch.setattr(_data, "ADDRESS", f"http://127.0.0.1:{server.server_port}/{{repository}}/{{commit}}/{{path}}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("WORLDPROBE_DATA", raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield file
        server.shutdown()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    (tmp_path / "mirror" / "world").mkdir(parents=True)
    monkeypatch.setenv("WORLDPROBE_DATA", str(tmp_path / "mirror"))
    return tmp_path / "mirror"


def cached():
    return [file for file in _data.cache_dir().rglob("*") if file.is_file()]


def test_a_download_is_checked_kept_and_not_repeated(site):
    file = fetch("world/things.json")
    assert file.read_bytes() == ORIGINAL
    assert file.suffix == ".bin" and file.stat().st_mode & 0o777 == 0o644
    site.unlink()
    assert fetch("world/things.json") == file
    assert cached() == [file]


@pytest.mark.parametrize("sent", [ORIGINAL[:-1], ORIGINAL + b"x", b"X" + ORIGINAL[1:], b""],
                         ids=["cut", "longer", "changed", "empty"])
def test_a_download_that_is_not_the_pinned_file_leaves_nothing_behind(site, sent):
    site.write_bytes(sent)
    with pytest.raises(DamagedFile, match=rf"c0ffee/data/things.bin did not send the pinned file: .*{ENTRY['sha256']}"):
        fetch("world/things.json")
    assert cached() == []
    site.write_bytes(ORIGINAL)
    assert fetch("world/things.json").read_bytes() == ORIGINAL


class Cuts(SimpleHTTPRequestHandler):
    """Promises the whole file and closes the connection after so many bytes of it."""

    cut = 0

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(ORIGINAL)))
        self.end_headers()
        self.wfile.write(ORIGINAL[: Cuts.cut])

    def log_message(self, *_):
        pass


def test_a_download_cut_at_a_hundred_places_leaves_nothing_behind_and_the_next_one_is_whole(site, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Cuts) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        monkeypatch.setattr(_data, "ADDRESS", f"http://127.0.0.1:{server.server_port}/{{repository}}/{{commit}}/{{path}}")
        for cut in random.Random(0).sample(range(len(ORIGINAL)), 100):
            Cuts.cut = cut
            with pytest.raises((DamagedFile, DataUnavailable)):
                fetch("world/things.json")
            assert cached() == []
        Cuts.cut = len(ORIGINAL)
        assert fetch("world/things.json").read_bytes() == ORIGINAL
        server.shutdown()


def test_without_a_copy_and_without_the_address_the_error_says_how_to_go_on(site):
    site.unlink()
    with pytest.raises(DataUnavailable, match="cannot download http.*WORLDPROBE_DATA is not set.*set WORLDPROBE_DATA "
                                              "to a folder that holds world/things.json"):
        fetch("world/things.json")
    assert cached() == []


def test_without_a_network_the_error_says_how_to_go_on(site, mirror, monkeypatch):
    monkeypatch.setattr(_data, "ADDRESS", "http://127.0.0.1:9/{repository}/{commit}/{path}")
    with pytest.raises(DataUnavailable, match="refused.*WORLDPROBE_DATA=.*mirror has no world/things.json"):
        fetch("world/things.json")


def test_a_damaged_cached_file_is_named_and_never_used(site):
    file = fetch("world/things.json")
    file.write_bytes(ORIGINAL[:100])
    with pytest.raises(DamagedFile, match=f"{file} is not the pinned file .*found 100 bytes"):
        fetch("world/things.json")


@pytest.mark.parametrize(("name", "content"), [("things.json", CONVERTED), ("things.bin", ORIGINAL)])
def test_the_mirror_comes_first_with_the_conversion_or_the_original(site, mirror, name, content):
    (mirror / "world" / name).write_bytes(content)
    assert fetch("world/things.json") == mirror / "world" / name
    assert cached() == []


@pytest.mark.parametrize("name", ["things.json", "things.bin"])
def test_a_damaged_file_in_the_mirror_is_named_and_not_replaced_by_a_download(site, mirror, name):
    (mirror / "world" / name).write_bytes(b"{}")
    with pytest.raises(DamagedFile, match=f"{name} is not the pinned file"):
        fetch("world/things.json")
    assert cached() == []


def test_a_mirror_without_the_file_leaves_it_to_the_download(site, mirror):
    assert fetch("world/things.json").read_bytes() == ORIGINAL


def test_only_pinned_data_sets_are_fetched(site):
    with pytest.raises(ValueError, match="no data set 'world/other.json' .* it has .'world/things.json'."):
        fetch("world/other.json")


def test_every_pin_is_complete():
    for entry in json.loads(_data.MANIFEST.read_text()):
        assert len(entry["commit"]) == 40 and len(entry["sha256"]) == 64 and entry["bytes"] > 0
        assert ("here_sha256" in entry) == ("here_bytes" in entry)
        assert _data.ADDRESS.format(**entry).startswith("https://raw.githubusercontent.com/")
