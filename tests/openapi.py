"""The served OpenAPI document as what answers are held against."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jsonschema_rs import Draft202012Validator

#: Models of which more may be there than the document says.
OPEN_MODELS = {"LogLine"}


class Document:
    """An OpenAPI document. An answer is held against it strictly: what it does not describe may not be there."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.paths: dict[str, dict[str, Any]] = document["paths"]
        self.components = document["components"]
        for name, schema in self.components["schemas"].items():
            if "properties" in schema and name not in OPEN_MODELS:
                schema["additionalProperties"] = False
        self.seen: set[tuple[str, str, int]] = set()  #: method, path template and status of what was checked

    def check(self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Hold an answer against what the document says of it."""
        template = self._template(path)
        answers = self.paths[template][method.lower()]["responses"]
        where = f"{method} {template}"
        assert str(status) in answers, f"{where} answers {status}, which is not documented"
        described = answers[str(status)]
        if "$ref" in described:
            described = self.components["responses"][described["$ref"].rpartition("/")[2]]
        media_type = headers["Content-Type"].partition(";")[0]
        assert media_type in described["content"], f"{where} answers {media_type}, which is not documented"
        for name in described["headers"]:
            assert name in headers, f"{where} answers {status} without its {name}"
        if media_type.endswith("json"):
            schema = {**described["content"][media_type]["schema"], "components": self.components}
            errors = [error.message for error in Draft202012Validator(schema).iter_errors(json.loads(body))]
            assert not errors, f"{where} answers {status}: {errors}"
        self.seen.add((method, template, status))

    def _template(self, path: str) -> str:
        """Return the template of a path; one without a name in braces goes first, as in the router."""
        fitting = [
            template
            for template in self.paths
            if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)), path)
        ]
        assert fitting, f"{path} is not documented"
        return min(fitting, key=lambda template: "{" in template)
