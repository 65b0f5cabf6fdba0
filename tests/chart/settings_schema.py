"""
The part of the chart's values.schema.json that is the gateway's settings, made from gateway/settings.py.

Run `python -m tests.chart.settings_schema` after a setting was added or changed: it writes the part anew.
"""

import json
from pathlib import Path
from typing import Any

from gateway.settings import Settings

SCHEMA = Path(__file__).parents[2] / "helm" / "sluice" / "values.schema.json"
# What the chart itself sets, from where its parts are. Secrets it takes by reference alone.
OWN = {
    *("home", "host", "port", "gateway_id", "database_url", "redis_url"),
    *("upstream.ca_file", "jobs.objects_dir", "hub.dir"),
}
_KEPT = {
    *("type", "description", "enum", "const", "anyOf", "items", "format", "additionalProperties"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern"),
}


def settings_schema() -> dict[str, Any]:
    """Give the schema of `gateway.settings`: every setting that an operator may say, and no other name."""
    whole = Settings.model_json_schema()
    return _section(whole, whole["$defs"], "")


def _section(section: dict[str, Any], definitions: dict[str, Any], prefix: str) -> dict[str, Any]:
    properties = {
        name: _leaf_or_section(field, definitions, f"{prefix}{name}")
        for name, field in section["properties"].items()
        if f"{prefix}{name}" not in OWN and "writeOnly" not in str(field)
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _leaf_or_section(field: dict[str, Any], definitions: dict[str, Any], path: str) -> dict[str, Any]:
    if "$ref" in field:
        return _section(definitions[field["$ref"].rpartition("/")[2]], definitions, f"{path}.")
    return {key: value for key, value in field.items() if key in _KEPT}


def main() -> None:
    schema = json.loads(SCHEMA.read_text())
    schema["$defs"]["settings"] = settings_schema()
    SCHEMA.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
