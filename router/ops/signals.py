"""Server signals: one loop a server that tells its load, which reads it from GET /metrics beside the API.

    KNOWN ──a page that says nothing, or none──► UNKNOWN ──a page that does──► KNOWN
      every interval                               every 2, 4, 8 … intervals, up to LONGEST seconds

What was read counts for STALE intervals, so one page that is missed changes nothing. A page that is too long, cut,
slow or no page of metrics says nothing, and what it does not say is unknown and never 0.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from random import Random

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from router.config import EndpointConfig
from router.core.choice.table import Table
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.server_load import ServerLoad
from router.dialects import DIALECTS
from router.dialects.base import Gauges
from router.ops.asking import beside, get
from router.scheduler import Scheduler

INTERVAL = 1.0  # seconds, where the file says none: a queue builds up and goes within some
STALE = 5  # intervals
LONGEST = 60.0  # seconds between two looks at a server that says nothing of its load
JITTER = 0.1  # of the interval, so that the loops of several routers do not march in step
MAX_PAGE = 2 << 20  # bytes; most of a page are histograms, and to look through them takes 6 ms a MB
MOST = 1e9  # of anything; what is more is no count
MAX_LINES = 512  # of our gauges, 3 or 4 an engine: one takes 18 us, and all that time no call is served

log = logging.getLogger(__name__)


class Listener:
    """Reads what one server says of its load, for the endpoints there; `run` is its loop."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        told: EndpointConfig,
        gauges: Gauges,
        client: httpx.AsyncClient,
        scheduler: Scheduler,
        rng: Random,
    ) -> None:
        self._endpoints, self._told, self._gauges, self._client = endpoints, told, gauges, client
        self._scheduler, self._rng = scheduler, rng
        self.interval = INTERVAL if told.signals == "auto" else float(told.signals)
        self.silence = ""  # why nothing was read last time
        self._missed = 0  # pages in a row

    def __repr__(self) -> str:
        return f"<Listener {self._told.name}: {', '.join(e.model for e in self._endpoints)}>"

    async def run(self) -> None:
        while True:
            self.note(await self.page())
            pause = self.pause * (1.0 + JITTER * self._rng.uniform(-1.0, 1.0))
            await asyncio.sleep(pause / self._scheduler.speed)

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        return min(self.interval * 2.0**self._missed, max(self.interval, LONGEST))

    async def page(self) -> bytes | str:
        """The page of metrics, or why there is none."""
        within = STALE * self.interval
        try:
            async with asyncio.timeout(within / self._scheduler.speed):
                response, page = await get(self._client, beside(self._told, "/metrics"), self._told, MAX_PAGE)
        except TimeoutError:
            return f"no answer within {within:g} s"
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        if response.status_code != 200:
            return f"status {response.status_code}"
        return page if len(page) <= MAX_PAGE else f"more than {MAX_PAGE} bytes"

    def note(self, page: bytes | str) -> None:
        """Tell the endpoints what a page says of them; where it tells none of them anything, say why, once."""
        silence, now = page if isinstance(page, str) else "none of its gauges is there", self._scheduler.now()
        if isinstance(page, bytes):
            try:
                samples = read(page, self._gauges)
            except ValueError as error:
                samples, silence = [], f"no page of metrics: {error}"
            for endpoint in self._endpoints:
                load = load_of(endpoint.model, samples, self._gauges)
                if load is not None:
                    endpoint.forecast.report(load, now, now + STALE * self.interval)
                    silence = ""
        self._missed = min(self._missed + 1, 20) if silence else 0
        if bool(silence) != bool(self.silence):
            log.info("endpoint %s: its load is %s", self._told.name, f"unknown: {silence}" if silence else "known")
        self.silence = silence


# What a page says.


def read(page: bytes, gauges: Gauges) -> list[Sample]:
    """The samples of our gauges. Raises ValueError where they can't be read.

    Only our lines go to the parser: all of vLLM's page would hold up the requests for 10 ms and more.
    """
    lines = _pattern(gauges).findall(page)
    if len(lines) > MAX_LINES:
        raise ValueError(f"more than {MAX_LINES} samples of its gauges")
    text = b"".join(line + b"\n" for line in lines).decode()
    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except OverflowError:
        raise ValueError("a time that is none") from None


def load_of(model: str, samples: Iterable[Sample], gauges: Gauges) -> ServerLoad | None:
    """A model's load: requests are the sum of its engines', the cache's use is their mean.

    Where a page knows of one model only, it is this one: a server tells it by the first of its names, whatever other
    names and adapters it serves.
    """
    models = {sample.labels.get("model_name") for sample in samples}
    of = model if model in models or len(models) != 1 else next(iter(models))
    ours = [sample for sample in samples if sample.labels.get("model_name") == of]
    running, waiting, kv = (_by_engine(ours, names, gauges.engine) for names in gauges[:3])
    load = ServerLoad(
        sum(running) if running else None,
        sum(waiting) if waiting else None,
        sum(kv) / len(kv) if kv and max(kv) <= 1.0 else None,
    )
    return None if load == ServerLoad() else load


def _by_engine(samples: Iterable[Sample], names: Sequence[str], engine: str) -> Collection[float]:
    """A gauge's values by the first of its names that is there; an engine that tells it more than once counts once."""
    for name in names:
        told = [sample for sample in samples if sample.name.replace(":", "_") == name.replace(":", "_")]
        if told:
            values: dict[str, float] = {}
            for sample in told:
                if not 0.0 <= sample.value <= MOST:
                    return ()
                key = sample.labels.get(engine, "")
                values[key] = max(values.get(key, 0.0), float(sample.value))
            return values.values()
    return ()


@cache
def _pattern(gauges: Gauges) -> re.Pattern[bytes]:
    """The lines of our gauges, some with `_` for `:`, and no name that only begins like one of them."""
    names = "|".join(name.replace(":", "[:_]") for names in gauges[:3] for name in names)
    return re.compile(rf"^(?:{names})(?=[ {{]).*$".encode(), re.MULTILINE)


def listeners(table: Table, client: httpx.AsyncClient, scheduler: Scheduler, rng: Random) -> Iterator[Listener]:
    """One for each server that tells its load and is to be asked for it."""
    for told in table.config.enabled:
        gauges = DIALECTS[told.kind].gauges
        if gauges is not None and told.signals != "off":
            endpoints = [endpoint for endpoint, its in table.endpoints.items() if its is told]
            yield Listener(endpoints, told, gauges, client, scheduler, rng)
