"""What the data plane's paths share: one frozen bundle, put together in app.py."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.core.canary import choose
from gateway.core.directory import Model
from gateway.core.outcome import Outcome
from gateway.core.prediction import Predictor
from gateway.core.prices import PriceVersion
from gateway.core.request import ChatRequest, named
from gateway.errors import Refused
from gateway.ports.directory import DirectoryReader
from gateway.serve.admission import SESSION_HEADER, Admission
from gateway.serve.authn import Authn, Caller
from gateway.serve.holds import Holding
from gateway.serve.http import Reply
from gateway.serve.metering import Metering, MeterRecord
from gateway.serve.upstream import Upstream
from gateway.serve.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Plane:
    """The parts a request passes through, in the order it meets them."""

    metering: Metering
    authn: Authn
    directory: DirectoryReader
    predictor: Predictor
    holds: Holding
    waiting: Waiting
    admission: Admission
    upstream: Upstream
    shares_prefix_cache: bool
    continues_streams: bool

    def model(self, name: str) -> Model:
        """Find a declared model; raise Refused(UNKNOWN_MODEL)."""
        model = self.directory.snapshot.models.get(name)
        if model is None or model.is_retired:
            message = f"The model {name!r} does not exist. GET /v1/models lists those that do."
            raise Refused(Outcome.UNKNOWN_MODEL, message, param="model")
        return model

    def route(self, record: MeterRecord, reply: Reply) -> Model:
        """
        Find the model of a request that was read, with the pool it goes to; raise Refused(UNKNOWN_MODEL).

        Of several pools it is the one of its session, else of its user, else of its id: who asks again stays with one
        pool. The request is made out to what that pool's engines know the model by; the reply says which pool it is.
        """
        request, snapshot = record.parsed, self.directory.snapshot
        model = self.model(request.model)
        if model.weights:
            session = record.headers.get(SESSION_HEADER, b"").decode("latin-1")
            key = session or request.user or record.id
            model = replace(model, pool=choose(model.weights, record.admitted.tenant, model.name, key))
        declared = snapshot.pools.get(model.pool)
        if declared and model.name not in declared.names:
            record.request = named(request, declared.serves[0])
        reply.headers.append((b"x-sluice-pool", model.pool.encode()))
        return model

    def price(self, tenant: str, model: Model, at_ms: int) -> PriceVersion | None:
        """Find the version of prices for a request of *tenant* that arrived at *at_ms*; None: it has no price."""
        return self.directory.snapshot.prices.find(tenant, model.name, model.pool, at_ms)

    def cache_salt(self, caller: Caller) -> str | None:
        """Give what keeps this tenant's prefix cache apart from the others', or None where it is shared."""
        return None if self.shares_prefix_cache else caller.tenant

    def read(self, parse: Callable[..., ChatRequest], caller: Caller, body: bytes) -> ChatRequest:
        """Read a body and add what its answer is expected to take, going by this tenant's answers so far."""
        request = parse(body, self.cache_salt(caller), continues=self.continues_streams)
        return self.predictor.foresee(caller.tenant, request)
