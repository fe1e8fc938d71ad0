"""Limits on the work that each worker of a service does at a time."""

THREADS = 40
"""They are made when there is work for them."""
REQUESTS = 36
"""Under way at a time. Those for /healthz and /startedz do not count."""
ORDERS = 24
"""The part of them that may place an order, or a part of one; so that products and the page always have a thread."""
LOOKUPS = 8
"""The part of them that may look an order up, which takes two services, which may hang."""
