"""Server signals: for each server that reports its load, a loop that reads it from GET /metrics beside the API.

    KNOWN ──no page, or one without the gauges──► UNKNOWN ──a page with the gauges──► KNOWN
      every interval                                every 2, 4, 8 … intervals, up to MAX_PAUSE seconds;
                                                    at once when a probe or a call finds the server up again

A reported load is valid for STALE intervals, so that one missed page changes nothing. A page that is too long, cut
short, late or not in the format of metrics reports nothing. A value that is not reported is unknown, never 0.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from random import Random

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from router.config import EndpointConfig
from router.core.choice.table import Table
from router.core.endpoint.endpoint import Endpoint
from router.core.endpoint.server_load import ServerLoad
from router.dialects import DIALECTS
from router.dialects.base import Gauges
from router.ops.asking import Unanswered, ask, beside, prepared
from router.ops.pause import Pause
from router.scheduler import Scheduler
from router.upstream.pool import Pool

INTERVAL = 1.0  # seconds, the default: a queue builds up and drains within a few of them
STALE = 5  # intervals for which a reported load is valid
MAX_PAUSE = 60.0  # seconds between two requests to a server that does not report its load
JITTER = 0.1  # share of the interval, so that the loops of several routers do not coincide
MAX_PAGE_BYTES = 2 << 20  # most of a page are histograms; searching it takes 6 ms per MB
MAX_VALUE = 1e9  # of any gauge: more is not a count
# Lines with our gauges, 3 or 4 per engine. Parsing one takes 18 us, during which no call is served.
MAX_LINES = 512

log = logging.getLogger(__name__)


class Scraper:
    """Reads the load that one server reports and passes it to the endpoints there; `run` is the loop."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        config: EndpointConfig,
        gauges: Gauges,
        pool: Pool,
        scheduler: Scheduler,
        rng: Random,
    ) -> None:
        self._endpoints, self._config, self._gauges, self._pool = endpoints, config, gauges, pool
        self._scheduler, self._rng, self._pause = scheduler, rng, Pause()
        self.unanswered: Callable[[], None] = lambda: None  # called when a server that answered does not any more
        self._request = prepared("GET", beside(config, "/metrics"), config)
        self.interval = INTERVAL if config.signals == "auto" else float(config.signals)
        self.unknown = ""  # why the last page reported no load; empty if it did
        self._missed = 0  # consecutive pages without a load

    def __repr__(self) -> str:
        return f"<Scraper {self._config.name}: {', '.join(e.model for e in self._endpoints)}>"

    async def run(self) -> None:
        while True:
            self.note(await self.page())
            pause = self.pause * (1.0 + JITTER * self._rng.uniform(-1.0, 1.0))
            await self._pause.wait(pause / self._scheduler.speed)

    def wake(self) -> None:
        """Ask now, and soon again: the server has recovered."""
        if self._missed:
            self._missed = 1
            self._pause.wake()

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def pause(self) -> float:
        """Seconds until the next request."""
        return min(self.interval * 2.0**self._missed, max(self.interval, MAX_PAUSE))

    async def page(self) -> bytes | str:
        """Request the page of metrics. Returns it, or the reason why there is none."""
        within = STALE * self.interval
        try:
            page = await ask(self._pool, self._request, MAX_PAGE_BYTES, within / self._scheduler.speed)
        except TimeoutError:
            return f"no answer within {within:g} s"
        except Unanswered as error:
            if not self._missed:
                self.unanswered()
            return str(error)
        if page.status != 200:
            return f"status {page.status}"
        body = page.body
        return body if len(body) <= MAX_PAGE_BYTES else f"more than {MAX_PAGE_BYTES} bytes"

    def note(self, page: bytes | str) -> None:
        """Pass the load on a page to its endpoints. If it reports none for any of them, log the reason, once."""
        unknown, now = page if isinstance(page, str) else "the page has none of its gauges", self._scheduler.now()
        if isinstance(page, bytes):
            try:
                samples = read(page, self._gauges)
            except ValueError as error:
                samples, unknown = [], f"not a page of metrics: {error}"
            for endpoint in self._endpoints:
                load = load_of(endpoint.model, samples, self._gauges)
                if load is not None:
                    endpoint.forecast.report(load, now, now + STALE * self.interval)
                    unknown = ""
        self._missed = min(self._missed + 1, 20) if unknown else 0
        if bool(unknown) != bool(self.unknown):
            known = f"unknown: {unknown}" if unknown else "known"
            log.info("endpoint %s: server load is %s", self._config.name, known)
        self.unknown = unknown


# Reading a page.


def read(page: bytes, gauges: Gauges) -> list[Sample]:
    """The samples of the gauges. Raises ValueError if they cannot be read.

    Only lines with these gauges are parsed: parsing all of vLLM's page would block calls for 10 ms and more.
    """
    lines = _pattern(gauges).findall(page)
    if len(lines) > MAX_LINES:
        raise ValueError(f"more than {MAX_LINES} samples of its gauges")
    text = b"".join(line + b"\n" for line in lines).decode()
    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except OverflowError:
        raise ValueError("a timestamp out of range") from None


def load_of(model: str, samples: Iterable[Sample], gauges: Gauges) -> ServerLoad | None:
    """A model's load: the sum of its engines' requests and the mean of their cache use; None if nothing is reported.

    If a page names one model only, that is this one: a server reports under the first of its model names, whatever
    other names and adapters it serves.
    """
    models = {sample.labels.get("model_name") for sample in samples}
    of = model if model in models or len(models) != 1 else next(iter(models))
    ours = [sample for sample in samples if sample.labels.get("model_name") == of]
    running, waiting, kv = (_by_engine(ours, names, gauges.engine) for names in gauges[:3])
    load = ServerLoad(
        sum(running, 0.0) if running else None,
        sum(waiting, 0.0) if waiting else None,
        sum(kv, 0.0) / len(kv) if kv and max(kv) <= 1.0 else None,
    )
    return None if load == ServerLoad() else load


def _by_engine(samples: Iterable[Sample], names: Sequence[str], engine: str) -> Collection[float]:
    """One value per engine, from the first of the gauge's names that is on the page. Of several samples of an engine
    the largest counts. Empty if one is not a count.
    """
    for name in names:
        reported = [sample for sample in samples if sample.name.replace(":", "_") == name.replace(":", "_")]
        if reported:
            values: dict[str, float] = {}
            for sample in reported:
                if not 0.0 <= sample.value <= MAX_VALUE:
                    return ()
                key = sample.labels.get(engine, "")
                values[key] = max(values.get(key, 0.0), float(sample.value))
            return values.values()
    return ()


@cache
def _pattern(gauges: Gauges) -> re.Pattern[bytes]:
    """Matches the lines of the gauges, with `_` or `:`, but no longer name that begins like one of them."""
    names = "|".join(name.replace(":", "[:_]") for names in gauges[:3] for name in names)
    return re.compile(rf"^(?:{names})(?=[ {{]).*$".encode(), re.MULTILINE)


def scrapers(table: Table, pools: Mapping[str, Pool], scheduler: Scheduler, rng: Random) -> Iterator[Scraper]:
    """One scraper for each server that reports its load, unless `signals` is off. `pools`: by configured name."""
    for config, endpoints in table.by_config():
        gauges = DIALECTS[config.kind].gauges
        if gauges is not None and config.signals != "off":
            yield Scraper(endpoints, config, gauges, pools[config.name], scheduler, rng)
