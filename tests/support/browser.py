"""A visitor of the review pages, without a real browser."""

from __future__ import annotations

import re
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

TOKEN, PORT = "the-key", 4711


HOST = f"http://127.0.0.1:{PORT}"


class Browser:
    """A visitor who opened the printed address and sends the forms of the pages."""

    def __init__(self, app: Flask) -> None:
        (self.case,) = app.config["CASES"]
        self.client: FlaskClient = app.test_client()
        self.client.get(f"/?token={TOKEN}", base_url=HOST)
        self.csrf = re.findall('name="csrf" value="([^"]+)"', self.get("/track/T1").text)[0]

    def open(self, path: str) -> TestResponse:
        return self.client.get(path, base_url=HOST)

    def get(self, path: str) -> TestResponse:
        return self.open(f"/case/{self.case}{path}")

    def post(self, path: str, **fields: Any) -> TestResponse:
        return self.client.post(
            f"/case/{self.case}{path}", base_url=HOST, data={"csrf": self.csrf, **fields}
        )
