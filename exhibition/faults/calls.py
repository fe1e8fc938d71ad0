"""Faults in calls to another service: adapters for requests."""

import json
from collections.abc import Mapping
from typing import Any

import requests

from chassis import client
from exhibition.scenarios import Place
from exhibition.selection import running, runs


class ForgetfulAdapter(client.Adapter):
    """A transport that drops the trace headers in the scenario `lost-context`."""

    def trusts(self, url: str) -> bool:
        """Return whether the call carries trace context."""
        return super().trusts(url) and not runs("lost-context")


class ChangingAdapter(client.Adapter):
    """A transport that changes the body of a call if a scenario acts on it."""

    place: Place

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Send a request with another body."""
        scenario = running()
        if scenario and self.place in scenario.acts and request.body:
            request.prepare_body(None, None, json=json.loads(request.body) | dict(scenario.body))
        return super().send(request, *args, **options)


class CallToOrder(ChangingAdapter):
    """The connection from the gateway to order."""

    place = ("gateway", "order")


class CallToAcquirer(ChangingAdapter):
    """The connection from payment to the acquirer."""

    place = ("payment", "acquirer")


OPTIONS: Mapping[Place, Mapping[str, Any]] = {
    CallToOrder.place: {"adapter_class": CallToOrder},
    ("order", "payment"): {"adapter_class": ForgetfulAdapter},
    CallToAcquirer.place: {"adapter_class": CallToAcquirer},
}
