"""Headers that restrict what a browser may do with an answer of the gateway: https://www.w3.org/TR/CSP3/ and
https://fetch.spec.whatwg.org/.
"""

from flask import Flask, Response

ALWAYS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PAGE = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The policy of the pages: everything from their own origin, and nothing inline. Their form is sent by the script."""
DATA = "default-src 'none'; frame-ancestors 'none'"


def install(app: Flask) -> None:
    """Add these headers to every answer of the app, including errors."""
    app.after_request(_protect)


def _protect(response: Response) -> Response:
    response.headers.update(ALWAYS)
    response.headers["Content-Security-Policy"] = PAGE if response.mimetype == "text/html" else DATA
    # An answer shows the current state, so a browser may only cache answers that allow it.
    response.headers.setdefault("Cache-Control", "no-store")
    return response
