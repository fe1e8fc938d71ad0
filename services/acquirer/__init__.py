"""A third party's payment API: it knows nothing about us, traces nothing, and shares only HTTP with us."""

from flask import Flask

from services.acquirer.api import create_blueprint
from services.acquirer.authorize import Ledger


def create_app() -> Flask:
    """Return the app; it keeps its authorizations in memory for as long as the process lives."""
    app = Flask("acquirer")
    app.config["MAX_CONTENT_LENGTH"] = 16 * 1024
    app.register_blueprint(create_blueprint(Ledger()))
    return app
