"""Settings read from anything: whatever stands in a profile or in --set, a Profile comes out, or one line says why."""

import json
import time

import numpy as np
import pytest
import yaml

from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.config import PROFILES, Profile, load_profile, parse_changes, write_profile

TRIES = 300  # of each kind
SECONDS = 5  # for one try, far above what any needs
CI = (PROFILES / "ci.yaml").read_bytes()
VALUES = [
    *(
        "null",
        "~",
        "",
        "[]",
        "{}",
        "[[[[]]]]",
        "[1, [2, {a: b}]]",
        "yes",
        "off",
        "0x1F",
        "0o17",
        "1:30",
        "1_000",
        ".inf",
    ),
    *(
        ".nan",
        "-0.0",
        "1e400",
        "9" * 400,
        "9" * 5000,
        "2001-99-99",
        "2001-01-01",
        "!!int x",
        "!!float []",
        "!!bool no-no",
    ),
    *(
        "!!timestamp x",
        "!!binary '*'",
        "!!set {a, b}",
        "!!python/object:os.system x",
        "&a [*a]",
        "*unknown",
        "<<",
        "? x",
    ),
    *(
        "'",
        '"\\x00"',
        "\ud800",
        "\u2028",
        "é",
        "%",
        "@",
        "|",
        ">",
        "- a\n- b",
        "a: b: c",
        "[1, 2",
        "{a: [}",
        "[" * 3000,
    ),
]


def one_line(error):
    """An error is one line of bounded length."""
    text = str(error)
    assert text.splitlines() == [text]
    assert len(text) < 1500
    return True


def read_or_refused(read):
    """Whether something is read; else it is refused in one line, and either way soon."""
    began = time.monotonic()
    try:
        assert isinstance(read(), Profile)
        return True
    except EthandError as error:
        return not one_line(error)
    finally:
        assert time.monotonic() - began < SECONDS


def mutated(rng, content):
    """A file after some slips: bytes changed, cut out, repeated or exchanged, lines moved, values replaced."""
    lines = content.split(b"\n")
    for _ in range(rng.integers(1, 4)):
        kind, at = rng.integers(6), rng.integers(len(lines))
        if kind == 0:
            line = bytearray(lines[at] or b" ")
            line[rng.integers(len(line))] = rng.integers(256)
            lines[at] = bytes(line)
        elif kind == 1:
            lines[at] = lines[at][: rng.integers(len(lines[at]) + 1)]
        elif kind == 2:
            lines.insert(rng.integers(len(lines)), lines[at])
        elif kind == 3:
            lines[at] = b" " * rng.integers(4) + lines[at]
        else:
            value = VALUES[rng.integers(len(VALUES))].encode(errors="surrogatepass")
            lines[at] = lines[at].split(b":")[0] + b": " + value
    return b"\n".join(lines)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_profile_in_an_encoding_with_its_mark_is_read(tmp_path, encoding):
    (tmp_path / "mine.yaml").write_bytes(CI.decode().encode(encoding))
    assert load_profile(tmp_path / "mine.yaml") == load_profile("ci")


@pytest.mark.parametrize(
    "kind", ["utf-16-le", "random", "list", "folder", "unclosed", "twice", "huge", "deep", "null byte"]
)
def test_what_is_no_profile_is_refused_in_one_line_that_names_the_file(tmp_path, kind):
    file = tmp_path / "mine.yaml"
    if kind == "folder":
        file.mkdir()
    else:
        content = {
            "utf-16-le": CI.decode().encode("utf-16-le"),
            "random": np.random.default_rng(0).bytes(5000),
            "list": b"- lr: 1\n- bs: 2\n",
            "unclosed": CI.replace(b"]", b""),
            "twice": CI + b"lr: 0.5\n",
            "huge": b"# " + b"x" * (1 << 21),
            "deep": b"lr: " + b"[" * 100_000,
            "null byte": CI + b"\0",
        }[kind]
        file.write_bytes(content)
    with pytest.raises(EthandError) as caught:
        load_profile(file)
    assert one_line(caught.value)
    assert str(file) in str(caught.value)


def test_profiles_after_slips_of_the_keyboard_are_read_or_refused(tmp_path):
    rng, read = np.random.default_rng(1), 0
    for _ in range(TRIES):
        (tmp_path / "mine.yaml").write_bytes(mutated(rng, CI))
        read += read_or_refused(lambda: load_profile(tmp_path / "mine.yaml"))
    assert 0 < read < TRIES


def test_random_bytes_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(2)
    for _ in range(TRIES):
        (tmp_path / "mine.yaml").write_bytes(rng.bytes(rng.integers(200)))
        assert not read_or_refused(lambda: load_profile(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("key", Profile.model_fields)
def test_every_setting_is_changed_or_refused_by_any_value(key, capsys):
    for value in VALUES:
        read_or_refused(lambda value=value: load_profile("ci", parse_changes([f"{key}={value}"])))
        capsys.readouterr()


def test_what_is_accepted_reads_back_as_it_is(tmp_path, capsys):
    """Above all texts that look like numbers, dates or null."""
    texts = ["2024", "007", "1e3", "nan", "2001-01-01", "on", "[x]", "a: b", "é ü", "~/x", "#x", " x ", "'", "true"]
    for key in (name for name, field in Profile.model_fields.items() if field.annotation in (str, str | None)):
        for text in texts:
            changed = load_profile("ci", parse_changes([f"{key}={json.dumps(text)}"]))
            assert getattr(changed, key) == text
            write_profile(tmp_path, changed)
            assert load_profile(tmp_path / "profile.yaml") == changed
    capsys.readouterr()


def test_a_folder_with_a_numbers_name_can_be_given():
    assert parse_changes(["data=2024", "mano_dir=1e3", "g1_init=on"]) == {
        "data": "2024",
        "mano_dir": "1e3",
        "g1_init": "on",
    }
    assert parse_changes(["data=null", "seeds=2"]) == {"data": None, "seeds": 2}


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"lr: [", b"- 1", b""])
def test_a_damaged_profile_of_a_run_is_written_anew(tmp_path, damage):
    (tmp_path / "profile.yaml").write_bytes(damage)
    write_profile(tmp_path, load_profile("ci"))
    assert yaml.safe_load((tmp_path / "profile.yaml").read_bytes()) == load_profile("ci").model_dump()
