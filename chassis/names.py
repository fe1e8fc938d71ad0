"""The names of the attributes of our own.

Written by `make telemetry-docs` from telemetry-schema/attributes.yaml, the place to add one.
"""

ORDER_ID = "order.id"
ORDER_OUTCOME = "order.outcome"
POOL_HOLDERS_ROUTES = "pool.holders.routes"
POOL_HOLDERS_TRACE_IDS = "pool.holders.trace_ids"
PRODUCT_SKU = "product.sku"
WAYBILL_DELIVERY_COUNT = "waybill.delivery_count"
WAYBILL_SCENARIO = "waybill.scenario"
WAYBILL_SYNTHETIC = "waybill.synthetic"
