"""Delete the shipments of orders from long ago.

python -m services.fulfilment.retention
"""

from chassis.retention import Old, main
from services.fulfilment.models import Shipment

TABLES = (Old(Shipment.order_id, by=Shipment.created_at, since=Shipment.created_at),)

if __name__ == "__main__":
    main("fulfilment", TABLES)
