"""Our telemetry without its metrics and its logs by OTLP: lines on standard output stay."""

from typing import Any

from telemetry import logs, metrics, providers, untraced

__all__: list[str] = []


class _Ended:
    """Stands for a provider that was never made."""

    def shutdown(self) -> None:
        """Do nothing."""


def _no_metrics(*_: Any) -> Any:
    return _Ended()


def _no_logs(resource: Any, *_: Any) -> Any:
    untraced.configure(str(resource.attributes["service.name"]))
    return _Ended()


class _NoExporter:
    def __init__(self, **_: Any) -> None:
        pass

    def shutdown(self) -> None:
        """Do nothing."""


replaced: tuple[tuple[Any, str, Any], ...] = (
    (metrics, "configure", _no_metrics),
    (logs, "configure", _no_logs),
    # Their channels and threads would cost as well.
    (providers, "OTLPMetricExporter", _NoExporter),
    (providers, "OTLPLogExporter", _NoExporter),
)
for module, name, stand_in in replaced:
    setattr(module, name, stand_in)
