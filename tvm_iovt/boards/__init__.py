"""Boards behind TVM's RPC tracker: the supervised server that runs on one, and its clients."""
