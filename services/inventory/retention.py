"""Delete the reservations of old orders, without putting stock back.

python -m services.inventory.retention
"""

from chassis.retention import Old, main
from services.inventory.models import Reservation

TABLES = (Old(Reservation.order_id, by=Reservation.created_at, since=Reservation.created_at),)

if __name__ == "__main__":
    main("inventory", TABLES)
