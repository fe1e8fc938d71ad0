"""The goods that the gateway sells."""

import click
import requests

from waybill import loopback


def skus_in_stock(url: str) -> list[str]:
    """Return the SKUs that the gateway sells. Raises click.ClickException if there are none, or no answer."""
    try:
        with loopback.session() as session:
            answer = session.get(f"{url}/products", timeout=(2, 10))
            answer.raise_for_status()
            skus = [product["sku"] for product in answer.json()["products"] if product["available"] > 0]
    except requests.ConnectionError as error:
        raise click.ClickException(f"The gateway does not answer at {url}: is it running? `make up`") from error
    except (requests.RequestException, LookupError, TypeError) as error:
        raise click.ClickException(
            f"{url}/products does not answer as the gateway should ({error}): is that port another program's?"
        ) from error
    if not skus:
        raise click.ClickException("Everything is sold out. `make down`, remove .waybill/data, and `make up` again.")
    return skus
