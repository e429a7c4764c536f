"""GET /v1/models and /v1/models/{id}: the models that clients may use."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.errors import NotFound, UnknownModel
from router.proxy.admission import Admission
from router.proxy.serving import Tables


class Models:
    """Lists the models of the current table. `started` is the Unix time that each gives as its creation."""

    def __init__(self, tables: Tables, admission: Admission, started: int) -> None:
        self._tables, self._admission, self._started = tables, admission, started

    @property
    def routes(self) -> list[Route]:
        return [Route("/v1/models", self.list), Route("/v1/models/{model:path}", self.one)]

    async def list(self, request: Request) -> Response:
        self._admission.authorize_reading(request.headers.raw)
        models = [self._model(name) for name in self._tables.current.table.routes]
        return JSONResponse({"object": "list", "data": models})

    async def one(self, request: Request) -> Response:
        self._admission.authorize_reading(request.headers.raw)
        name = request.path_params["model"]
        if not name:
            raise NotFound("There is nothing at /v1/models/; the list of models is at /v1/models.")
        if name not in self._tables.current.table.routes:
            raise UnknownModel(f"The model '{name}' is not served here.", param="model")
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "firsttoken"}
