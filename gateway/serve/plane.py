"""What the data plane's paths share: one frozen bundle, put together in app.py."""

from dataclasses import dataclass

from gateway.core.directory import Model
from gateway.core.outcome import Outcome
from gateway.core.prediction import Predictor
from gateway.core.prices import PriceVersion
from gateway.core.request import ChatRequest
from gateway.errors import Refused
from gateway.ports.directory import DirectoryReader
from gateway.serve.admission import Admission
from gateway.serve.authn import Authn, Caller
from gateway.serve.holds import Holding
from gateway.serve.metering import Metering
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

    def model(self, name: str) -> Model:
        """Find a declared model; raise Refused(UNKNOWN_MODEL)."""
        model = self.directory.snapshot.models.get(name)
        if model is None or model.is_retired:
            message = f"The model {name!r} does not exist. GET /v1/models lists those that do."
            raise Refused(Outcome.UNKNOWN_MODEL, message, param="model")
        return model

    def price(self, tenant: str, model: Model, at_ms: int) -> PriceVersion | None:
        """Find the version of prices for a request of *tenant* that arrived at *at_ms*; None: it has no price."""
        return self.directory.snapshot.prices.find(tenant, model.name, model.pool, at_ms)

    def cache_salt(self, caller: Caller) -> str | None:
        """Give what keeps this tenant's prefix cache apart from the others', or None where it is shared."""
        return None if self.shares_prefix_cache else caller.tenant

    def foresee(self, caller: Caller, request: ChatRequest) -> ChatRequest:
        """Give *request* with what its answer is expected to take, going by this tenant's answers so far."""
        return self.predictor.foresee(caller.tenant, request)
