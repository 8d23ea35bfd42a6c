# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""What follows from what the stores have answered: connection pools, and whether the server could work with them."""

from __future__ import annotations

from collections.abc import Mapping

FEWEST = 2  # connections that a pool needs: a request can need a second one while it holds the first


def connection_pool(wanted: Mapping[str, int], workers: int, engines: int, available: int) -> dict[str, int | bool]:
    """The connection pool of each worker's engines, cut to what the database server has for us.

    A request can need a second connection while it holds the first, so fewer requests at once go
    with a smaller pool.

    Args:
        wanted: ``size``, ``overflow`` and ``requests`` (at once, for each worker) as set.
        workers: processes with pools of their own.
        engines: pools in each worker.
        available: connections that the server has for us; 0 where there is no limit.

    Returns:
        The same keys, and ``cut``: whether less than wanted was there.
    """
    total = wanted["size"] + wanted["overflow"]
    share = min(total, available // (workers * engines)) if available else total
    if share == total:
        return {**wanted, "cut": False}
    size = max(1, min(wanted["size"], share - 1))
    overflow = max(1, share - size)  # MLflow takes 0 for "not set"
    return {"size": size, "overflow": overflow, "requests": max(1, min(wanted["requests"], share // 2)), "cut": True}


def wrong_stores(answer: Mapping, here: Mapping, available: int) -> list[str]:
    """Sentences about stores that the server could not work with.

    Args:
        answer: of the program that has asked them; see mlflow_service/stores/probes.py.
        here: what follows from the settings, with ``workers`` and ``pools_per_worker``.
        available: connections that PostgreSQL has for this server; 0 where there is no limit.
    """
    pools = here["workers"] * here["pools_per_worker"]
    found = list(answer["errors"])
    if available and available // pools < FEWEST:
        found.append(
            f"PostgreSQL has {available} connections for this server, and {here['workers']} workers need "
            f"{FEWEST * pools} at least; raise its max_connections or lower mlflow_workers."
        )
    return found
