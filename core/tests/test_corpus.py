"""Finding, filtering and splitting source files."""

import os

import pytest

from lcm.errors import DataError, LcmWarning
from lcm.train.corpus import collect, standard_library


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def names(corpus):
    return [document.name for document in corpus.documents]


def test_files_are_found_by_ending_in_order_of_their_relative_names(tmp_path):
    write(tmp_path, z_py="z", a__b_py="b", a__a_py="a", readme="text")
    write(tmp_path, **{".hidden__x_py": "x", "__pycache____y_py": "y", "node_modules__n_py": "n"})
    (tmp_path / "env").mkdir()
    (tmp_path / "env/pyvenv.cfg").touch()
    (tmp_path / "env/site.py").write_text("s")
    (tmp_path / "package.py").mkdir()
    (tmp_path / "package.py/inner.py").write_text("i")
    corpus = collect([tmp_path])
    assert names(corpus) == ["a/a.py", "a/b.py", "package.py/inner.py", "z.py"]
    assert corpus.dropped == {"another ending": 1}
    assert names(collect([tmp_path], suffixes=["me"])) == ["readme"]


def test_several_roots_keep_their_files_apart(tmp_path):
    write(tmp_path, one__src__a_py="1", two__src__a_py="2", c_py="3")
    corpus = collect([tmp_path / "one/src", tmp_path / "two/src", tmp_path / "c.py"])
    assert names(corpus) == ["c.py/c.py", "src-2/a.py", "src/a.py"]


FILTERS = {
    "binary": b"x = 1\0",
    "not UTF-8": b"# \xff",
    "empty": b" \n\t\n",
    "oversized": b"x = 1\n" * 1000,
    "minified or data": b"x = 1; " * 200,
}


@pytest.mark.parametrize("reason", FILTERS)
def test_an_unfit_file_is_dropped_counted_and_named(tmp_path, reason):
    write(tmp_path, good_py="x = 1\n", bad_py=FILTERS[reason])
    corpus = collect([tmp_path], max_bytes=5000)
    assert names(corpus) == ["good.py"]
    assert corpus.dropped == {reason: 1}
    assert corpus.examples == {reason: ("bad.py",)}


def test_python_in_another_encoding_is_read_as_it_declares(tmp_path):
    write(tmp_path, a_py="# coding: latin-1\n# größer\n".encode("latin-1"))
    write(tmp_path, b_py=b"\xef\xbb\xbfx = 1\n")
    write(tmp_path, c_py=b"# coding: rot13\n# \xff", d_py=b"# coding: nonsense\n# \xff")
    corpus = collect([tmp_path])
    assert [d.read() for d in corpus.documents] == ["# coding: latin-1\n# größer\n", "x = 1\n"]
    assert corpus.dropped == {"not UTF-8": 2}


def test_the_same_content_is_taken_once_whatever_its_line_ends(tmp_path):
    write(tmp_path, a_py="x\ny\n", b_py="x\r\ny\r\n", c_py="x\ry\r", d_py="x\ny")
    corpus = collect([tmp_path])
    assert names(corpus) == ["a.py", "d.py"]
    assert corpus.examples == {"duplicate": ("b.py", "c.py")}
    assert corpus.size == 7


def test_what_cannot_be_read_is_noted_and_not_fatal(tmp_path):
    write(tmp_path, good_py="x")
    (tmp_path / "dangling.py").symlink_to(tmp_path / "gone.py")
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.warns(LcmWarning, match=r"2 unreadable, left out: dangling\.py, pipe\.py"):
        corpus = collect([tmp_path])
    assert names(corpus) == ["good.py"]
    assert corpus.dropped == {"unreadable": 2}


def test_links_are_not_followed_out(tmp_path):
    write(tmp_path, outside__secret_py="secret", inside__a_py="a")
    inside = tmp_path / "inside"
    (inside / "out.py").symlink_to("../outside/secret.py")
    (inside / "folder").symlink_to("../outside")
    (inside / "loop").symlink_to(inside)
    corpus = collect([inside])
    assert names(corpus) == ["a.py"]
    assert corpus.dropped == {"link that leads out": 1}


def test_nothing_to_train_on_says_what_was_seen(tmp_path):
    with pytest.raises(DataError, match="nothing to train on: 0 files seen"):
        collect([tmp_path])
    write(tmp_path, a_py=b"\0", b_py=b"\0", c_txt="c")
    with pytest.raises(DataError, match=r"3 files seen: \w.*2 binary") as caught:
        collect([tmp_path])
    assert str(tmp_path) in str(caught.value)
    assert "1 another ending than .py" in str(caught.value)
    with pytest.raises(DataError, match="there is no such file or folder"):
        collect([tmp_path / "none"])


def test_a_file_that_changes_after_it_was_collected_is_an_error(tmp_path):
    (document,) = collect([write(tmp_path, a_py="x")]).documents
    write(tmp_path, a_py="y")
    with pytest.raises(DataError, match="has changed meanwhile"):
        document.read()
    (tmp_path / "a.py").unlink()
    with pytest.raises(DataError, match="is unreadable by now"):
        document.read()


def test_the_split_is_of_the_contents_alone_and_disjoint(tmp_path):
    for i in range(200):
        write(tmp_path / "a", **{f"f{i}_py": f"x = {i}\n"})
        write(tmp_path / "b", **{f"g{999 - i}_py": f"x = {i}\n", f"more{i}_py": f"y = {i}\n"})
    small, large = collect([tmp_path / "a"]), collect([tmp_path / "b"])
    for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        train, held_out = ({d.digest for d in side} for side in small.split(share))
        assert abs(len(held_out) - 200 * share) < 30
        assert len(train) + len(held_out) == 200
        assert not held_out & train
        more_train, more_held_out = ({d.digest for d in side} for side in large.split(share))
        assert train <= more_train
        assert held_out <= more_held_out


def test_both_sides_of_a_split_have_a_file_or_it_is_refused(tmp_path):
    write(tmp_path, a_py="a", b_py="b", c_py="c")
    for share, sizes in [(0.001, (2, 1)), (0.999, (1, 2)), (0, (3, 0))]:
        train, held_out = collect([tmp_path]).split(share)
        assert (len(train), len(held_out)) == sizes
    with pytest.raises(DataError, match="1 file cannot be split"):
        collect([tmp_path / "a.py"]).split(0.1)
    with pytest.raises(DataError, match="share of 1"):
        collect([tmp_path]).split(1)


def test_the_standard_library_is_a_corpus():
    corpus = standard_library()
    assert len(corpus.documents) > 400
    assert "json/decoder.py" in names(corpus)
    assert not any("site-packages" in name for name in names(corpus))
