"""Limits on the work that each worker of a service does at a time."""

THREADS = 40
"""They are started when there is work for them."""
REQUESTS = 36
"""Requests in progress at a time. Those for /healthz and /startedz do not count."""
ORDERS = 24
"""The number of these that may place an order, or a part of one, so that products and the page always have a thread."""
LOOKUPS = 8
"""The number of these that may look up an order, which calls two services that may hang."""
