"""The page `/docs`: the routes of the server, from its OpenAPI description. It loads nothing and runs no script."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1e; }
h2 { font-size: 1.1rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0; }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #1c1c1e; } a { color: #8ab4f8; } }
"""


def api_page(description: Mapping[str, Any]) -> str:
    """Render an OpenAPI description as HTML.

    Args:
        description (`Mapping[str, Any]`): as `FastAPI.openapi` returns it.
    """
    schemas = description.get("components", {}).get("schemas", {})
    routes = [
        section
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
        for section in _route(f"{method.upper()} {path}", operation, schemas)
    ]
    title = escape(description["info"]["title"])
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><h1>{title}</h1>'
        f"<p>{escape(description['info'].get('description', ''))} "
        f'For programs: <a href="openapi.json">openapi.json</a>.</p>{"".join(routes)}</body></html>'
    )


def _route(name: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{escape(name)}</code></h2><p>{escape(operation.get('description', ''))}</p>"
    rows = [
        (each["name"], f"in the {each['in']}", each["schema"], each.get("description", ""), each.get("required"))
        for each in operation.get("parameters", [])
    ]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = schemas[content["schema"]["$ref"].rpartition("/")[2]]
        rows += [
            (field, "in the JSON body", about, about.get("description", ""), field in schema.get("required", ()))
            for field, about in schema["properties"].items()
        ]
    if rows:
        head = "".join(f'<th scope="col">{text}</th>' for text in ("Name", "Where", "Type", "Default", "Meaning"))
        yield f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, rows))}</tbody></table>"
    codes = ", ".join(f"{code} {escape(about['description'])}" for code, about in operation["responses"].items())
    yield f"<p>Answers: {codes}.</p>"


def _row(row: tuple[str, str, Mapping[str, Any], str, bool | None]) -> str:
    name, where, schema, meaning, required = row
    default = "required" if required else json.dumps(schema.get("default"))
    cells = (f"<code>{escape(name)}</code>", where, escape(_type(schema)), escape(default), escape(meaning))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _type(schema: Mapping[str, Any]) -> str:
    """The type of a value in words, with its limits."""
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    name = schema.get("format") or schema.get("type", "any")
    if name == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = {
        "minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "maxLength": "at most",
    }  # fmt: skip
    return " ".join([str(name), *(f"{words} {schema[key]}" for key, words in limits.items() if key in schema)])
