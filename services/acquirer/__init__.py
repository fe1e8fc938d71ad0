"""A third party's payment API: it knows nothing of us, traces nothing, and shares nothing with us but HTTP."""

from flask import Flask

from services.acquirer.api import blueprint
from services.acquirer.authorize import Ledger


def create_app() -> Flask:
    """The app factory; what it authorized is kept in memory, as long as the process lives."""
    app = Flask("acquirer")
    app.config["MAX_CONTENT_LENGTH"] = 16 * 1024
    app.extensions["ledger"] = Ledger()
    app.register_blueprint(blueprint)
    return app
