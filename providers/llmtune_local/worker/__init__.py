"""The processes that train: the worker, the fork server, Ray."""
