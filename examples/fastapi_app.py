"""A web service with the runtime inside: FastAPI's lifespan starts it, routes await async actors.

One process, with a private node that ends with it:

    uvicorn --app-dir examples fastapi_app:app

Several processes that share one node, and on it one actor by its name:

    export ACTORFLOW_ADDRESS=$(actorflow start)  # needs the extra actorflow[cli]
    uvicorn --app-dir examples --workers 2 fastapi_app:app
    actorflow stop
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException

import actorflow as af


@af.remote
class Words:
    """Counts words; each web process has its own."""

    async def count(self, text: str) -> dict[str, int]:
        if not text.strip():
            raise ValueError("the text is empty")
        return dict(Counter(text.lower().split()))


@af.remote
class Visits:
    """Counts visits of all web processes; they share it by its name."""

    def __init__(self) -> None:
        self.total = 0

    async def add(self) -> int:
        self.total += 1
        return self.total


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Without the variable the address is None: a private node for this process.
    async with af.init(address=os.environ.get("ACTORFLOW_ADDRESS"), namespace="web"):
        app.state.words = Words.remote()
        app.state.visits = Visits.options(name="visits", get_if_exists=True, lifetime="detached").remote()
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/words")
async def words(text: str) -> dict[str, int]:
    try:
        counts: dict[str, int] = await app.state.words.count(text)
    except ValueError as error:  # raised in the actor's process, caught here as what it is
        raise HTTPException(422, error.args[0]) from error
    return counts


@app.get("/visits")
async def visits() -> dict[str, Any]:
    """The number of this visit, and the process that answers."""
    return {"visit": await app.state.visits.add(), "pid": os.getpid()}
