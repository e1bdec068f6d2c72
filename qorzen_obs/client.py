"""A running service, asked over HTTP: what the command line does from another terminal.

Blocking, on the standard library: it runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final

from qorzen_obs.errors import QorzenError

DEFAULT_URL: Final = "http://127.0.0.1:8080"
_TIMEOUT_SECONDS: Final = 10.0


class ClientError(QorzenError):
    """The service refused, or could not be reached; the message says which."""


class Client:
    """The commands of one service."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._token = token

    def cancel(self, task_id: str) -> str:
        """Cancel a task; return what became of it in a sentence.

        Raises:
            ClientError: it had ended, may not be cancelled or is unknown, or the service does not answer.
        """
        task = self._post(f"/api/tasks/{urllib.parse.quote(task_id, safe='')}/cancel")
        ended = task["status"] == "cancelled"
        return f"{task['name']} {'is cancelled' if ended else 'was asked to stop'}"

    def health(self) -> dict[str, Any]:
        """Return what /health says, also of a service that fails.

        Raises:
            ClientError: it does not answer, refuses to, or says something else.
        """
        document = self._ask("/health", expected=(HTTPStatus.SERVICE_UNAVAILABLE,))
        if not isinstance(document, dict) or document.get("status") not in ("pass", "warn", "fail"):
            raise ClientError(f"{self._url} is no such service; is it the service's --url?")
        return document

    def _post(self, path: str) -> Any:
        return self._ask(path, body=b"{}")

    def _ask(self, path: str, *, body: bytes | None = None, expected: tuple[int, ...] = ()) -> Any:
        """Return the JSON of a good answer, or of one whose status is expected. A body makes it a POST."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            request = urllib.request.Request(self._url + path, body, headers)
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in expected:
                    with contextlib.suppress(ValueError):
                        return json.load(error)
                raise ClientError(_detail(error)) from error
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ClientError(
                f"{self._url} does not answer ({reason}); is it the service's --url?"
            ) from error


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {error.code} {error.reason}"
