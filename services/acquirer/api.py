"""The acquirer's public API: authorize a payment once per Idempotency-Key, and look it up."""

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from services.acquirer.authorize import KeyReused, Ledger, Request
from services.acquirer.simulate import SIMULATIONS


def create_blueprint(ledger: Ledger) -> Blueprint:
    """Return the routes of the acquirer, which keep their authorizations in `ledger`."""
    blueprint = Blueprint("acquirer", __name__)

    @blueprint.post("/authorizations")
    def authorize() -> ResponseReturnValue:
        """Authorize an amount on a token. The answer to a declined card is 201 as well: the call succeeded."""
        body = request.get_json()
        if not isinstance(body, dict):
            return jsonify(error="needs a JSON object"), 400
        key = request.headers.get("Idempotency-Key", "")
        if not key or (wanted := _wanted(body)) is None:
            return jsonify(error="needs an Idempotency-Key, and amount, currency and token"), 400
        misbehave = SIMULATIONS.get(str(body.get("simulate")))
        if misbehave and (error := misbehave(key)):
            return error
        try:
            authorization, created = ledger.authorize(key, wanted, list(request.headers.keys()))
        except KeyReused:
            return jsonify(error="this Idempotency-Key came with another request"), 422
        return jsonify(id=authorization.id, status=authorization.status), 201 if created else 200

    @blueprint.get("/authorizations")
    def list_all() -> ResponseReturnValue:
        """List every authorization, so that accounts can be compared."""
        return jsonify(
            authorizations=[
                {"key": key, "status": authorization.status}
                for key, authorization in ledger.authorizations.copy().items()
            ]
        )

    @blueprint.get("/authorizations/<key>")
    def show(key: str) -> ResponseReturnValue:
        """Show the authorization under a key, and the names of the headers that each request for it carried."""
        authorization = ledger.authorizations.get(key)
        if authorization is None:
            return jsonify(error="no such authorization"), 404
        headers = authorization.received_headers
        return jsonify(id=authorization.id, status=authorization.status, received_headers=headers)

    @blueprint.get("/healthz")
    def healthz() -> ResponseReturnValue:
        """Report that the process is alive."""
        return jsonify(status="ok")

    return blueprint


def _wanted(body: dict[str, object]) -> Request | None:
    amount, currency, token = body.get("amount"), body.get("currency"), body.get("token")
    if isinstance(amount, int) and amount > 0 and isinstance(currency, str) and isinstance(token, str):
        return Request(amount, currency, token)
    return None
