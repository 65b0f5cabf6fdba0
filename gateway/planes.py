"""What the planes that run on FastAPI share: a bearer token in front of every route, errors in OpenAI's form."""

import hmac
from collections.abc import Callable
from typing import Annotated

import structlog
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import SecretStr
from starlette.exceptions import HTTPException

from gateway.core.outcome import Outcome
from gateway.errors import (
    AlreadyExists,
    InvalidInput,
    NotFoundError,
    Refused,
    SluiceError,
    StoreUnavailable,
    error_body,
)

_STATUS = {NotFoundError: 404, AlreadyExists: 409, InvalidInput: 400, StoreUnavailable: 503}
_CODE = {404: "not_found", 405: "method_not_allowed", 409: "already_exists", 400: "invalid_request", 503: "unavailable"}
_INVALID = "invalid_request_error"

log = structlog.get_logger()


def plane_app(title: str, token: SecretStr | None, variable: str) -> FastAPI:
    """
    Make an app whose routes all want *token* as their bearer; without a token they are closed.

    *variable* is the setting that the refusal names.
    """
    bearer = Depends(_bearer_check(token, variable))
    app = FastAPI(title=title, dependencies=[bearer], openapi_url=None, docs_url=None, redoc_url=None)
    app.add_exception_handler(SluiceError, _answer_sluice_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_bug)
    return app


def _bearer_check(token: SecretStr | None, variable: str) -> Callable[[str], None]:
    def check(authorization: Annotated[str, Header()] = "") -> None:
        secret = token.get_secret_value() if token else ""
        if not secret:
            raise Refused(Outcome.UNAUTHENTICATED, f"This is closed: no token is set. Set {variable}.")
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), secret.encode()):
            raise Refused(Outcome.UNAUTHENTICATED, f"The bearer token is missing or wrong. It is that of {variable}.")

    return check


def _answer_sluice_error(_: Request, error: Exception) -> Response:
    if isinstance(error, Refused):
        return _json(error.outcome.status, error.body())
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    kind = "service_unavailable_error" if status == 503 else _INVALID if status < 500 else "server_error"
    return _json(status, error_body(str(error), kind, None, _CODE.get(status)))


def _answer_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for these alone"
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"][1:]) or "body"
    return _json(400, error_body(f"{field}: {problem['msg']}.", _INVALID, field, "invalid_request"))


def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for these alone"
    message = {
        404: f"There is no {request.url.path} here.",
        405: f"{request.url.path} does not take {request.method}.",
    }.get(error.status_code, str(error.detail))
    response = _json(error.status_code, error_body(message, _INVALID, None, _CODE.get(error.status_code)))
    response.headers.update(error.headers or {})
    return response


def _answer_bug(request: Request, error: Exception) -> Response:
    log.error("bug", path=request.url.path, exc_info=error)
    return _json(500, error_body("Something went wrong here; see the log.", "server_error", None, "internal_error"))


def _json(status: int, body: bytes) -> Response:
    return Response(body, status, media_type="application/json")
