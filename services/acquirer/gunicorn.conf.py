"""Configuration of gunicorn for the acquirer: one process, since it keeps its ledger in memory."""

import os

bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8009')}"
worker_class = "gthread"
workers = 1
threads = 32
keepalive = 75
control_socket_disable = True
errorlog = "-"
