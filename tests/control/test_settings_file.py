"""sluice.yaml as the settings read it: what is wrong is named with its line, and no file can do harm."""

import pytest

from gateway.errors import InvalidInput
from gateway.marked_yaml import VALUES_MAX, excerpt, read_yaml
from gateway.settings import load_settings

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)

HOSTILE = {
    "a_tab": ("port: 1\nqueue:\n\twaiting_max: 1\n", "sluice.yaml:3: not valid YAML: .*spaces, not tabs"),
    "a_name_twice": ("port: 1\nhost: a\nport: 2\n", "sluice.yaml:3: 'port' stands twice, first in line 1"),
    "a_bomb_of_aliases": (BOMB, rf"sluice.yaml:\d: aliases repeat values until there are more than {VALUES_MAX}"),
    "an_alias_inside_itself": ("queue: &q\n  wait_s_max: *q\n", "sluice.yaml:2: an alias .* stands inside it"),
    "a_tag": ("port: !!python/object/apply:os.abort []\n", "sluice.yaml:1: "),
    "a_tag_of_a_text": ("port: 1\nhost: !!python/name:os.abort x\n", "sluice.yaml:2: host: could not determine"),
    "a_date_that_is_none": ("port: 1\nhost: 2026-99-99\n", "sluice.yaml:2: host: '2026-99-99' is no value"),
    "a_number_without_end": ("port: " + "9" * 5000 + "\n", "sluice.yaml:1: port: '99+…' is no value"),
    "brackets_without_end": ("port: 1\nhost: " + "[" * 5000, "sluice.yaml:2: values are nested more than 50 deep"),
    "closed_brackets": ("port: 1\nhost: " + "[" * 80 + "]" * 80, "sluice.yaml:2: values are nested more than 50 deep"),
    "a_list": ("- port: 1\n", "sluice.yaml:1: the file must be a mapping"),
    "two_documents": ("port: 1\n---\nport: 2\n", "sluice.yaml:2: not valid YAML"),
    "a_name_that_is_a_list": ("port: 1\n? [a]\n: 1\n", "sluice.yaml:2: a name must be a plain text"),
    "a_null_byte": ("port: 1\nhost: \0\n", "sluice.yaml:2: not valid YAML"),
    "a_merge_of_nothing": ("port: 1\nqueue:\n  <<: 3\n", "sluice.yaml:3: `<<` takes a mapping"),
}


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(text, environ=None):
        (tmp_path / "sluice.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_settings(environ or {})

    return load


def test_a_file_is_read_and_the_environment_goes_before_it(load):
    settings = load("port: 1\nqueue: {waiting_max: 5}\n", {"SLUICE_PORT": "2"})
    assert (settings.port, settings.queue.waiting_max) == (2, 5)


def test_the_sections_that_declare_pools_are_no_settings(load):
    assert load("port: 1\npools: {a: {model: m}}\nmodels: {b: {a: 1}}\nprices: p.yaml\n").port == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port: 1\nprot: 2\n", r"sluice.yaml:2: prot: is not a setting. Did you mean port\? \(column 1\)"),
        ("queue:\n  waiting_maxx: 2\n", r"sluice.yaml:2: queue.waiting_maxx: .* Did you mean waiting_max\?"),
        ("poolss: {a: 1}\n", r"sluice.yaml:1: poolss: is not a setting. Did you mean pools\?"),
        ("port: 1\nqueue:\n  waiting_max: x\n", r"sluice.yaml:3: queue.waiting_max: .*integer.* \(column 16\)"),
        ("port: 1\nqueue: 3\n", r"sluice.yaml:2: queue: .*"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(load, text, message):
    with pytest.raises(InvalidInput, match=message):
        load(text)


def test_a_variable_that_is_wrong_is_named_instead_of_the_file(load):
    with pytest.raises(InvalidInput, match=r"^port: .* \(in SLUICE_PORT\)$"):
        load("port: 1\n", {"SLUICE_PORT": "x"})


def test_a_secret_that_is_wrong_is_not_shown(load):
    with pytest.raises(InvalidInput, match=r"sluice.yaml:1: admin_token") as caught:
        load("admin_token: [hunter2]\n")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_an_error_with_its_line(load, text, message):
    with pytest.raises(InvalidInput, match=message):
        load(text)


def test_what_is_not_utf8_is_an_error_with_its_line(load):
    with pytest.raises(InvalidInput, match=r"sluice.yaml:2: byte 11 is not UTF-8"):
        load(b"port: 1\n#  \xff\n")


def test_merged_mappings_count_less_than_what_stands_beside_them():
    read = read_yaml(b"a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  z: 3\n  <<: [*a, *b]\n", "f").value["c"]
    assert read.plain() == {"x": 1, "y": 1, "z": 3}


def test_an_excerpt_holds_the_sections_that_are_named_and_no_other():
    text = b"pools:\n  a: 1  # why\n  # of b\n  b: 2\n\n# admin_token: old\nadmin_token: new\nmodels: {x: 1}"
    assert excerpt(read_yaml(text, "f"), text, ("pools", "models", "prices")) == (
        "pools:\n  a: 1  # why\n  # of b\n  b: 2\nmodels: {x: 1}\n"
    )
