"""
Price files: YAML as people write it by hand, CSV as spreadsheets keep it, JSON as programs send it.

Nothing in them becomes a float on the way: every number stays the text that somebody wrote until it is read exactly.
"""

import csv
import io
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from gateway.control.price_entries import (
    FROM_TOKENS,
    PRICES,
    TIER_FIELDS,
    VERSION_FIELDS,
    Fields,
    PriceEntry,
    Written,
    read_entry,
    write_entry,
    write_moment,
)
from gateway.core.money import shown
from gateway.core.prices import PriceBook, PriceVersion
from gateway.core.zones import load_zone, local_time
from gateway.errors import InvalidInput

FORM_OF_SUFFIX = MappingProxyType({".yaml": "yaml", ".yml": "yaml", ".csv": "csv", ".json": "json"})
FILE_BYTES_MAX = 1 << 20  # some 10,000 versions; pure Python reads that in seconds beside the requests of a gateway
COLUMNS = (*VERSION_FIELDS, *TIER_FIELDS)
_TOP = ("zone", "currency", "prices")
_SHARED = ("to", "currency", "batch_factor")  # of a version; its further rows may repeat them or leave them empty
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # what spreadsheets may run instead of showing it


def read_prices(content: bytes, form: str, name: str, zone: ZoneInfo) -> tuple[PriceEntry, ...]:
    """
    Read a price file of that *form*, called *name* in messages; *zone* is its zone unless it names one itself.

    Raises InvalidInput naming the file, the entry and the field.
    """
    if len(content) > FILE_BYTES_MAX:
        raise InvalidInput(f"{name} has {len(content)} bytes. The most is {FILE_BYTES_MAX}: split it by models.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name} is not UTF-8. In a spreadsheet, save it as `CSV UTF-8`.") from error
    if form == "csv":
        return tuple(read_entry(each, zone) for each in _read_csv(text, name))
    tree = _load_json(text, name) if form == "json" else _load_yaml(text, name)
    zone, written = _read_tree(tree, name, zone)
    return tuple(read_entry(each, zone) for each in written)


def form_of(name: str) -> str:
    """Tell the form of a file by the end of its *name*. Raises InvalidInput."""
    form = FORM_OF_SUFFIX.get(PurePath(name).suffix.lower())
    if form is None:
        raise InvalidInput(f"{name} ends in none of {', '.join(FORM_OF_SUFFIX)}. Rename it by what it holds.")
    return form


def write_prices(versions: Iterable[PriceVersion], form: str, zone: ZoneInfo) -> str:
    """Write what is not withdrawn of *versions* so that `read_prices` reads it back; *form* is yaml, csv or json."""
    book = PriceBook.of(versions)
    scopes = [book.by_scope[scope] for scope in sorted(book.by_scope)]
    if form == "csv":
        return _write_csv(
            [_write(each, found, lambda at: local_time(at, zone).isoformat()) for found in scopes for each in found]
        )
    entries = [_entry(_write(each, found, lambda at: write_moment(at, zone))) for found in scopes for each in found]
    tree = {"zone": zone.key, "prices": entries}
    if form == "json":
        return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
    return yaml.dump(tree, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=1000)


def _write(version: PriceVersion, scope: Sequence[PriceVersion], moment: Callable[[int], str]) -> Written:
    """Write one version; where the next one of its *scope* follows at once, its end goes without saying."""
    is_followed = any(each.from_ms == version.to_ms for each in scope)
    return write_entry(version, None if is_followed else version.to_ms, moment)


class _Loader(yaml.BaseLoader):
    """Every scalar stays a text, and no name may stand twice in a mapping, where the last would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for at, (key, _) in enumerate(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value in names[:at]:
                raise yaml.constructor.ConstructorError(None, None, f"{shown(key.value)} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Texts go out as they are, without the quotes that numbers and dates among them would get."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  declared so by its base


def _load_yaml(text: str, name: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a BaseLoader makes texts, lists and mappings of them alone
    except yaml.MarkedYAMLError as error:
        at = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidInput(f"{name}{at} is not YAML as expected: {error.problem}.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidInput(f"{name} is not YAML: it holds what no text file has. Save it as plain text.") from error


def _load_json(text: str, name: str) -> Any:
    try:
        return json.loads(text, parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} is not JSON as expected: {error}.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in " + ", ".join(name for name, _ in pairs))
    return found


def _read_tree(tree: Any, name: str, zone: ZoneInfo) -> tuple[ZoneInfo, list[Written]]:
    """Give the zone of a file and its entries as texts."""
    if not isinstance(tree, dict) or not isinstance(entries := tree.get("prices"), list) or not entries:
        raise InvalidInput(
            f"{name} holds no prices. Write `prices:` and a list under it; `sluice prices import --help`."
        )
    if unknown := [key for key in tree if key not in _TOP]:
        raise InvalidInput(
            f"{name}: there is no field {shown(str(unknown[0]))} at the top. Known are {', '.join(_TOP)}."
        )
    top = _texts(name, {key: value for key, value in tree.items() if key != "prices"})
    if top.get("zone"):
        zone = _named_zone(name, top["zone"])
    return zone, [_split(name, number, entry, top) for number, entry in enumerate(entries, start=1)]


def _named_zone(name: str, zone: str) -> ZoneInfo:
    try:
        return load_zone(zone)
    except InvalidInput as error:
        raise InvalidInput(f"{name}: zone: {error}") from error


def _split(name: str, number: int, entry: Any, top: Fields) -> Written:
    """Part an entry's own fields from its prices, which are those of the first tier."""
    where = f"{name}, entry {number}"
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where} is no mapping of fields. Write `- model: …` and the other fields under it.")
    further = entry.get("tiers") or []
    if not isinstance(further, list) or not all(isinstance(tier, dict) for tier in further):
        raise InvalidInput(f"{where}: tiers is no list of prices. Write `- {FROM_TOKENS}: …` and the prices under it.")
    texts = _texts(where, {key: value for key, value in entry.items() if key != "tiers"})
    where += f" ({texts['model']})" if texts.get("model", "").isprintable() and texts.get("model") else ""
    fields = {key: text for key, text in texts.items() if key not in PRICES}
    fields["currency"] = fields.get("currency") or top.get("currency", "")
    first = {key: text for key, text in texts.items() if key in PRICES}
    tiers = [(f"{where}, tier {at}", _texts(f"{where}, tier {at}", tier)) for at, tier in enumerate(further, start=2)]
    return Written(where, fields, [(where, first), *tiers])


def _texts(where: str, fields: Mapping[Any, Any]) -> dict[str, str]:
    for key, value in fields.items():
        if not isinstance(value, str | None):
            raise InvalidInput(f"{where}: {shown(str(key))} is not a single value. Write a text or a number.")
    return {str(key): value or "" for key, value in fields.items()}


def _entry(written: Written) -> dict[str, Any]:
    """Give an entry as YAML and JSON nest it."""
    first, *further = (dict(tier) for _, tier in written.tiers)
    del first[FROM_TOKENS]
    return {**written.fields, **first, **({"tiers": further} if further else {})}


def _read_csv(text: str, name: str) -> list[Written]:
    """Read one row per version and tier; rows that agree in scope and `from` are the tiers of one version."""
    versions: dict[tuple[str, ...], Written] = {}
    for where, row in _rows(text, name):
        fields = {key: row.get(key, "") for key in VERSION_FIELDS}
        tier = (where, {key: row.get(key, "") for key in TIER_FIELDS})
        identity = tuple(fields[key] for key in VERSION_FIELDS if key not in _SHARED)
        known = versions.get(identity)
        if known is None:
            versions[identity] = Written(where, fields, [tier])
            continue
        if differing := [key for key in _SHARED if fields[key] and fields[key] != known.fields[key]]:
            advice = "Tiers of one version share it."
            raise InvalidInput(
                f"{where}: {differing[0]} {shown(fields[differing[0]])} is not that of {known.where}. {advice}"
            )
        versions[identity] = Written(known.where, known.fields, [*known.tiers, tier])
    if not versions:
        raise InvalidInput(f"{name} holds no prices. The first line names the columns: {','.join(COLUMNS)}")
    return list(versions.values())


def _rows(text: str, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Give the rows that are not empty, and where they stand. Some spreadsheets part columns by semicolons."""
    head = text.partition("\n")[0]
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=";" if ";" in head else ",")
    try:
        columns = _columns(next(lines, []), name)
        for cells in lines:
            where = f"{name}, line {lines.line_num}"
            if len(cells) > len(columns) and any(cells[len(columns) :]):
                raise InvalidInput(
                    f"{where} has {len(cells)} cells, the first line {len(columns)}. Is a comma unquoted?"
                )
            if any(cell.strip() for cell in cells):
                yield where, {column: _unguard(cell) for column, cell in zip(columns, cells, strict=False)}
    except csv.Error as error:
        raise InvalidInput(f"{name}, line {lines.line_num} is not CSV: {error}.") from error


def _columns(cells: Sequence[str], name: str) -> list[str]:
    columns = [cell.strip() for cell in cells]
    while columns and not columns[-1]:
        columns.pop()
    for column in columns:
        if column not in COLUMNS:
            raise InvalidInput(f"{name}: there is no column {shown(column)}. Known are {', '.join(COLUMNS)}.")
        if columns.count(column) > 1:
            raise InvalidInput(f"{name}: the column {column} is there twice.")
    return columns


def _write_csv(entries: Iterable[Written]) -> str:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, lineterminator="\r\n")
    table.writeheader()
    for written in entries:
        for _, tier in written.tiers:
            table.writerow({key: _guard(cell) for key, cell in {**written.fields, **tier}.items()})
    return text.getvalue()


def _guard(cell: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula: it shows the rest as text."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _unguard(cell: str) -> str:
    return cell.removeprefix("'")
