"""What holds for every test."""

import os

# Before gRPC is imported: its handlers of fork may end a child that has not yet become PostgreSQL.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
