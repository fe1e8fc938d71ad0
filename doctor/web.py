"""Make one bounded HTTP request, or say why there was no answer."""

import json
import os
import re
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from .faults import Broken

# A long time, since the machine may be busy.
ANSWER_SECONDS = 10
MOST_BYTES = 1_000_000
MOST_REDIRECTS = 10
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing, so that a request may be made twice: RFC 9110."""
# A name and password in a URL, or before a host without a scheme, which gRPC accepts too.
CREDENTIALS = re.compile(r"(?<=://)[^\s/?#]*@|(?<![\w./])[^\s/@:=`]+:[^\s/@]*@")

How = Literal["closed", "tls", "silent", "cut", "foreign"]
"""The ways in which a request fails: no connection, no TLS, silence, an end without an answer, or an answer that is
not HTTP.
"""


class Unanswered(Exception):
    """There was no HTTP answer; the message says why."""

    def __init__(self, how: How, why: str) -> None:
        super().__init__(why)
        self.how = how


@dataclass(frozen=True)
class Answer:
    """The answer. A body that is too long or endless is cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def text(self) -> str:
        """Return the body, with a mark in place of bytes that are not text."""
        return self.body.decode(errors="replace")

    def json(self) -> dict[str, Any] | None:
        """Return the body, if it is an object in JSON."""
        # Endless brackets cause a RecursionError.
        with suppress(ValueError, RecursionError):
            read = json.loads(self.body)
            return read if isinstance(read, dict) else None
        return None


def ask(
    url: str,
    method: str = "GET",
    *,
    headers: Mapping[str, str] | None = None,
    data: bytes | None = None,
    json: object = None,
    certificate: str = "",
    by_proxy: bool = False,
    redirects: bool = True,
    seconds: float = ANSWER_SECONDS,
) -> Answer:
    """Make a request, with or without the environment's proxy. Raises Unanswered, and Broken for a bad certificate.

    `certificate` is a file with the authorities to trust, by default the one in REQUESTS_CA_BUNDLE.
    """
    deadline = time.monotonic() + seconds
    with requests.Session() as session:
        session.trust_env = by_proxy
        session.max_redirects = MOST_REDIRECTS
        session.verify = (certificate or _authorities()) if url.startswith("https:") else True
        try:
            with session.request(
                method,
                url,
                headers=headers,
                data=data,
                json=json,
                timeout=seconds,
                stream=True,
                allow_redirects=redirects,
            ) as answer:
                return Answer(answer.status_code, answer.headers, _body(answer, deadline))
        except (OSError, HTTPError, ValueError) as error:
            raise _unanswered(error, seconds) from error


def check_url(url: str) -> None:
    """Check that a URL can be requested. Raises ValueError if not."""
    requests.Request("GET", url).prepare()
    parts = urlsplit(url)
    blank = parts.netloc.split() != [parts.netloc]
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or blank:
        raise ValueError("no host in it")
    # Refuse impossible DNS names here, and not in the middle of a connection.
    parts.hostname.encode("idna")


def check_headers(headers: Mapping[str, str]) -> None:
    """Check that headers can be sent. Raises ValueError if not."""
    prepared = requests.Request("GET", "http://127.0.0.1", headers=dict(headers)).prepare()
    for name, value in prepared.headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError("no name of a header")
        value.encode("latin-1")


def without_passwords(text: str) -> str:
    """Return the text without names and passwords in its addresses."""
    return CREDENTIALS.sub("", text)


def without_userinfo(address: str) -> str:
    """Return one address, valid or not, without the part before its host."""
    return re.sub("^(.*://)?.*@", r"\1", address, flags=re.DOTALL)


def check_authorities(file: str, variable: str, who: str, whose: str) -> None:
    """Check that a file has certificates. Raises Broken if it does not."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except OSError as error:
        detail = reason(error)
        raise Broken("setting-unusable", who=who, variable=variable, value=file, detail=detail, whose=whose) from error


def reason(error: OSError) -> str:
    """Return the system's message about a connection or a file."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return (error.strerror or str(error) or type(error).__name__).lower()


def _authorities() -> str | bool:
    variable = "REQUESTS_CA_BUNDLE"
    file = os.environ.get(variable, "")
    # It may also be a folder.
    if file and not Path(file).is_dir():
        check_authorities(file, variable, "the doctor", "this shell")
    return file or True


def _body(answer: requests.Response, deadline: float) -> bytes:
    body = b""
    # A server that has sent a head has answered, even if the body breaks off.
    with suppress(OSError, HTTPError):
        while len(body) < MOST_BYTES and time.monotonic() < deadline:
            piece = answer.raw.read1(MOST_BYTES, decode_content=True)
            if not piece:
                break
            body += piece
    return body


def _unanswered(error: Exception, seconds: float) -> Unanswered:
    cause = _innermost(error)
    if isinstance(error, requests.ConnectTimeout):
        return Unanswered("closed", f"no connection within {seconds:g} s")
    if isinstance(error, requests.TooManyRedirects):
        return Unanswered("cut", "it redirects in a circle")
    if isinstance(cause, ssl.SSLError):
        return Unanswered("tls", reason(cause))
    if isinstance(cause, TimeoutError):
        return Unanswered("silent", f"nothing within {seconds:g} s")
    if isinstance(cause, ConnectionResetError | BrokenPipeError):
        return Unanswered("cut", "it closes the connection")
    if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
        return Unanswered("closed", reason(cause))
    return Unanswered("foreign", "no HTTP came back")


def _innermost(error: BaseException) -> BaseException:
    """Return the system's own error, inside the exceptions that libraries have wrapped around it."""
    around = (getattr(error, "reason", None), *error.args, error.__cause__)
    inner = next((each for each in around if isinstance(each, BaseException)), None)
    return _innermost(inner) if inner else error
