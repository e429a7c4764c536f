"""One client request: parse it, look up its model, admit it, and begin its answer; or answer with an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from router.core.call import Call, InvalidCall, Operation, parse
from router.core.choice.affinity import key_of
from router.core.choice.route import Route
from router.core.record import CallRecord
from router.errors import BadRequest, RouterError, UnknownModel, not_served
from router.proxy.admission import Admission
from router.proxy.answer import FirstAnswer
from router.proxy.client import Client, Request
from router.proxy.compression import Unpacking, codings_of, decoded
from router.proxy.context import Context
from router.proxy.headers import call_facts, facts_of, lines, optional
from router.proxy.loop_guard import LoopGuard
from router.proxy.open_call import OpenCall
from router.proxy.serving import Serving, Tables

OPERATIONS: Mapping[bytes, Operation] = {
    b"/v1/chat/completions": "chat/completions",
    b"/v1/completions": "completions",
    b"/v1/embeddings": "embeddings",
}


class Handler:
    """Answers requests. `authorize` checks a request's headers before its body is read, and returns the lines that
    CORS adds to the head of its answer.

    While `stopping` each answer closes its client's connection; while `refusing` idle connections are closed as well.
    """

    __slots__ = (
        "_admission",
        "_context",
        "_loop_guard",
        "_max_body",
        "_open",
        "authorize",
        "cors",
        "refusing",
        "stopping",
        "tables",
    )

    def __init__(
        self,
        tables: Tables,
        admission: Admission,
        context: Context,
        max_body: int = 32 << 20,
        loop_guard: LoopGuard | None = None,
    ) -> None:
        """`max_body`: bytes that a compressed body may have once it is decoded. `loop_guard`: of the tables' heads."""
        self._loop_guard = loop_guard or LoopGuard()
        self.tables, self._admission, self._context, self._max_body = tables, admission, context, max_body
        self.authorize, self.cors = admission.authorize, admission.cors
        self.stopping = self.refusing = False
        self._open: dict[CallRecord, Client] = {}  # to end them when the router stops

    @property
    def calls(self) -> int:
        """The number of calls that have begun and not ended."""
        return self._admission.calls

    def handle(self, request: Request, client: Client) -> None:
        """Answer an authorized request: at once with an error, or later, as its attempts end."""
        body = request.body if isinstance(request.body, bytes) else request.body.data
        if body[:1] != b"{" and (codings := codings_of(request.headers)):
            self._unpack(request, bytes(body), codings, client)
            return
        record = self.record(request.path, request.arrived)
        try:
            serving = self.tables.current  # read once: the call keeps this table to its end
            call = self._call(request, serving)
            if call.asks_why:
                self._admission.authorize_reading(request.headers)
            route = self._route(serving, call)
            if route.affinity != "off":
                call = replace(call, conversation=key_of(route.affinity, call, request.headers))
            record.model, record.stream = call.model, call.stream
            self._admission.admit()
        except RouterError as error:
            self.refuse(client, record, error)
            return
        self._open[record] = client
        open_call = OpenCall(call, route, serving.targets, client, record, self._context, self._ended)
        FirstAnswer(open_call).start()

    def _unpack(self, request: Request, body: bytes, codings: Sequence[bytes], client: Client) -> None:
        """Decode a compressed body, then answer."""
        path, arrived = request.path, request.arrived
        headers = [header for header in request.headers if header[0] != b"content-encoding"]

        def failed(error: RouterError) -> None:
            self.refuse(client, self.record(path, arrived), error)

        try:
            pieces = decoded(body, codings, self._max_body)
        except RouterError as error:
            failed(error)
            return
        Unpacking(
            pieces,
            client,
            self._context.scheduler,
            done=lambda body: self.handle(Request(path, headers, body, arrived), client),
            failed=failed,
            left=lambda: self.left(self.record(path, arrived)),
        ).advance()

    def record(self, path: bytes, arrived: float) -> CallRecord:
        return CallRecord(self._context.new_id(), OPERATIONS.get(path, ""), arrived)

    def refuse(self, client: Client, record: CallRecord, error: RouterError) -> None:
        """Answer with an error of the router's own, before any attempt."""
        now = self._context.scheduler.now()
        record.end(now)
        record.status, record.error = error.status, error.code
        body = error.body
        client.start(error.status, lines(error.headers) + call_facts(record, "", now), len(body))
        client.end(body)
        self._context.ended(record)

    def left(self, record: CallRecord) -> None:
        """Record a request whose client left before it was complete."""
        record.end(self._context.scheduler.now())
        record.status, record.error = 499, "client_left"
        self._context.ended(record)

    def refuse_all(self) -> None:
        """Accept no more calls."""
        self.refusing = True
        self._admission.close()

    def end_all(self, error: RouterError) -> int:
        """End every open call with this error, and return how many there were."""
        clients = list(self._open.values())
        for client in clients:
            if client.owner is not None:
                client.owner.stop(error)
        return len(clients)

    def _call(self, request: Request, serving: Serving) -> Call:
        headers = request.headers
        passed, patience, retries, asks_why, routers = request.facts or facts_of(headers)
        if routers:
            passed += self._loop_guard.passed_on(routers)
        try:
            call = parse(OPERATIONS[request.path], request.body, passed, patience, retries, asks_why)
        except InvalidCall as error:
            raise BadRequest(str(error), code=error.code, param=error.param) from None
        if serving.optional_headers:
            return replace(call, optional_headers=optional(headers, serving.optional_headers))
        return call

    def _route(self, serving: Serving, call: Call) -> Route:
        route = serving.route(call.operation, call.model)
        if route is not None:
            return route
        known = serving.table.routes
        if call.model in known:
            pretended = all(endpoint.simulated for endpoint in known[call.model].endpoints)
            why = " Its endpoints are simulated and answer only chat and completions." if pretended else ""
            message = f"No endpoint of the model '{call.model}' serves /v1/{call.operation}.{why}"
            raise UnknownModel(message, param="model")
        raise not_served(call.model, known, serving.table.disabled(call.model))

    def _ended(self, record: CallRecord) -> None:
        del self._open[record]  # a KeyError if a call ends twice
        self._admission.release()
        self._context.ended(record)
