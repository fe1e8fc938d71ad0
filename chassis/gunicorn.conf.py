"""Configuration of gunicorn for a service: threads, one small worker, and a shutdown that loses no span.

    HOST=127.0.0.1 PORT=8001 gunicorn --config chassis/gunicorn.conf.py "services.order:create_app()"

WEB_CONCURRENCY is gunicorn's own variable for the number of workers.
"""

import gc
import json
import logging
import os
import sys
import traceback
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import util

from chassis.capacity import THREADS
from chassis.deadline import InTime


class JsonLines(logging.Formatter):
    """Format the master's few log lines as JSON, without the telemetry package, which would cost it 40 MiB."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line = {"severity": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1]:
            line["exception.type"] = type(record.exc_info[1]).__name__
            line["exception.stacktrace"] = "".join(traceback.format_tb(record.exc_info[2]))
        return json.dumps(line)


class NothingOfTheCaller(logging.Filter):
    """Log the type of the error, and nothing else, of a request that gunicorn cannot handle.

    gunicorn would write the caller's address, and repeat the header, the line or the URI that was sent.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always log the record; replace its message if it reports an error."""
        error = sys.exc_info()[1]
        if error is not None and record.levelno >= logging.WARNING:
            what = "Invalid request" if str(record.msg).startswith("Invalid request") else "gunicorn failed"
            record.msg, record.args = f"{what}: {type(error).__name__}", ()
        return True


def refuse(sock: Any, status: int, reason: str, _message: str) -> None:
    """Answer a request that cannot be parsed, such as one with too long a line, with a problem document: RFC 9457."""
    # gunicorn answers "Bad Request" to some of them.
    reason = HTTPStatus(status).phrase if reason == "Bad Request" else reason
    body = json.dumps({"type": "about:blank", "title": reason, "status": status})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii"))


# gunicorn has no setting for it. Its own page is HTML, and repeats the caller's input.
util.write_error = refuse
# There is no setting for this either. A worker's main thread would wait 2 s for each caller that does not hang up.
util.close_graceful = partial(util.close_graceful, timeout=0.1)

bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
worker_class = "gthread"
threads = THREADS
# A long time, so that a call rarely uses a connection that is just being closed.
keepalive = 75
# A worker waits this long for its requests, which have a deadline of 5 s, and checks once a second; then its spans
# have 3 s.
REQUESTS_SECONDS = 6
# The master kills a worker that has not ended by then.
graceful_timeout = REQUESTS_SECONDS + 5
timeout = 30
# None of our proxies identifies itself, and from a stranger at loopback the headers SCRIPT_NAME, PATH_INFO and
# X-Forwarded-Proto would be accepted.
forwarded_allow_ips = ""
# The same as the limit of a header; gunicorn's default is half of that.
limit_request_line = 8190
# By default every gunicorn of a user listens on the same control socket.
control_socket_disable = True
# /dev/shm is in memory; a heartbeat on a slow disk blocks the worker.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112
accesslog = None
errorlog = "-"
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
    "root": {"level": "INFO", "handlers": ["stdout"]},
    "loggers": {"gunicorn.error": {"level": "INFO", "propagate": True, "handlers": []}},
}


def on_starting(server: Any) -> None:
    """Refuse to load the app before the fork: its gRPC channel and export thread do not survive one."""
    if server.cfg.preload_app:
        raise SystemExit("run without --preload: each worker makes its own telemetry after the fork")


def post_fork(_server: Any, worker: Any) -> None:
    """Make a worker wait for a shorter time than its master, which would kill it before it has sent its spans."""
    worker.cfg.set("graceful_timeout", REQUESTS_SECONDS)
    gc.disable()


def post_worker_init(worker: Any) -> None:
    """Start garbage collection once the app is loaded, and exclude the loaded objects, which stay anyway.

    Scanning them takes a quarter of the start-up time, and as long again at shutdown.
    """
    # Set it on the logger, since the handlers belong to the app.
    worker.log.error_log.addFilter(NothingOfTheCaller())
    gc.freeze()
    gc.enable()


def pre_request(_worker: Any, request: Any) -> None:
    """Read a body until the request's deadline, and no longer."""
    request.unreader.sock = InTime(request.unreader.sock)


def post_request(_worker: Any, request: Any, _environ: Any, _response: Any) -> None:
    """Give gunicorn its socket back, for the next request."""
    request.unreader.sock = request.unreader.sock.sock


def worker_exit(_server: Any, worker: Any) -> None:
    """Send the worker's last spans; gunicorn also calls this in the parent, for a worker that it lost."""
    if worker.pid == os.getpid():
        from chassis import app

        app.end()
