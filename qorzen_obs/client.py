"""A running service, asked over HTTP: what the command line does from another terminal.

Blocking, on the standard library: it runs in a process of its own.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
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

    def _post(self, path: str) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            request = urllib.request.Request(self._url + path, b"{}", headers, method="POST")
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ClientError(_detail(error)) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ClientError(
                f"{self._url} does not answer ({reason}); is it the service's --url?"
            ) from error


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {error.code} {error.reason}"
