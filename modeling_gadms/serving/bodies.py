"""Answers to bodies that cannot be read."""

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response


async def needs_json(request: Request) -> None:
    """Refuse other content types: a page of another site can send those without asking the server first."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"The body is {kind[:100]!r}: send application/json")


async def invalid_request(request: Request, error: Exception) -> Response:
    """Answer what FastAPI refuses. What was sent is not sent back: it may not be of JSON, nor of Unicode."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    detail = [
        {
            "type": problem["type"],
            "loc": [_printable(part) for part in problem["loc"]],
            "msg": _printable(problem["msg"]),
        }
        for problem in problems
    ]
    return JSONResponse({"detail": detail}, 422)


def _printable(value: str | int) -> str | int:
    """Escape what UTF-8 cannot express: the name of a field may contain half of a surrogate pair."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


async def unreadable_body(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "The body cannot be read: send JSON in UTF-8"}, 422)
