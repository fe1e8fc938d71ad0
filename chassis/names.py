"""The names of the attributes of our own that services set.

Written by `make telemetry-docs` from telemetry-schema/attributes.yaml, the place to add one.
"""

ORDER_ID = "order.id"
ORDER_OUTCOME = "order.outcome"
PRODUCT_SKU = "product.sku"
WAYBILL_DELIVERY_COUNT = "waybill.delivery_count"
