"""What a gateway expects of requests, learnt from those that ended: the tickets of core/prediction.py's predictor."""

import math

from gateway.core.prediction import Predictor
from gateway.core.request import ChatRequest
from gateway.core.scheduling import NO_DEADLINE_MS, Ticket
from gateway.core.usage import Usage
from gateway.planner.load import Request

# All that the predictor looks at is the model and the tenant.
_UNKNOWN = ChatRequest(
    model="planned",
    is_stream=True,
    include_usage=False,
    continuous_usage=False,
    max_tokens=None,
    n=1,
    user=None,
    body=b"",
)


class Foresight:
    """Makes the tickets that a gateway would make."""

    def __init__(self) -> None:
        self._predictor = Predictor()

    def ticket(self, ticket_id: str, request: Request) -> Ticket:
        """Make the ticket of *request*, whose answer's length is not known yet."""
        answer_tokens = self._predictor.foresee(request.tenant, _UNKNOWN).answer_tokens
        deadline_s = request.at_s + request.wait_s_max
        return Ticket(
            id=ticket_id,
            tenant=request.tenant,
            service_class=request.service_class,
            work=request.prompt_tokens + 2 * answer_tokens,
            weight=request.weight,
            deadline_ms=NO_DEADLINE_MS if deadline_s == math.inf else round(1000 * deadline_s),
            arrived_ms=round(1000 * request.at_s),
        )

    def learn(self, request: Request) -> None:
        """Take what an answer came to."""
        usage = Usage(prompt=request.prompt_tokens, completion=request.output_tokens)
        self._predictor.learn(request.tenant, _UNKNOWN, usage)
