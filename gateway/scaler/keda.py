"""
KEDA's external-push scaler: says which pools need a worker, the moment that changes, and how many.

The one metric is the number of workers there should be, with a target of 1 each, of the type AverageValue: then the
HorizontalPodAutoscaler's ceil(metric ÷ target) is that number, whatever it has now. Seconds of backlog as the metric
would have it multiply what is there by a ratio, which knows nothing of starting workers.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from gateway.scaler import externalscaler_pb2 as messages
from gateway.scaler.follow import Follower, Target

SERVICE = "externalscaler.ExternalScaler"
METRIC = "sluice-desired-workers"
TARGET = 1
FIRST_WORD_S = 3.0  # for a gateway to be heard after our own start; KEDA asks again

_Context = grpc.aio.ServicerContext[Any, Any]


class KedaScaler:
    """Answers KEDA by what *follower* last heard. Every trigger names its pool in its metadata."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    async def is_active(self, ref: messages.ScaledObjectRef, context: _Context) -> messages.IsActiveResponse:
        """Tell whether the pool should have a worker."""
        return messages.IsActiveResponse(result=(await self._target(ref, context)).desired > 0)

    async def stream_is_active(
        self, ref: messages.ScaledObjectRef, context: _Context
    ) -> AsyncIterator[messages.IsActiveResponse]:
        """Tell it now, and each time it changes, until KEDA goes."""
        is_active = (await self._target(ref, context)).desired > 0
        pool = ref.scalerMetadata["pool"]
        while True:
            yield messages.IsActiveResponse(result=is_active)
            await self._follower.until(lambda targets, told=is_active: (targets[pool].desired > 0) != told)  # type: ignore[misc]
            is_active = not is_active

    async def metric_spec(self, ref: messages.ScaledObjectRef, context: _Context) -> messages.GetMetricSpecResponse:
        """Name the metric and its target."""
        await self._pool(ref, context)
        spec = messages.MetricSpec(metricName=METRIC, targetSize=TARGET, targetSizeFloat=TARGET)
        return messages.GetMetricSpecResponse(metricSpecs=[spec])

    async def metrics(self, request: messages.GetMetricsRequest, context: _Context) -> messages.GetMetricsResponse:
        """Give the number of workers that there should be."""
        desired = (await self._target(request.scaledObjectRef, context)).desired
        value = messages.MetricValue(metricName=METRIC, metricValue=desired, metricValueFloat=desired)
        return messages.GetMetricsResponse(metricValues=[value])

    async def _target(self, ref: messages.ScaledObjectRef, context: _Context) -> Target:
        """Find the pool's target. Without one it is an error, on which KEDA changes nothing: 0 would end workers."""
        pool = await self._pool(ref, context)
        try:
            async with asyncio.timeout(FIRST_WORD_S):
                await self._follower.until(lambda targets: pool in targets)
        except TimeoutError:
            known = ", ".join(sorted(self._follower.targets)) or "none"
            message = f"Nothing certain is known yet of a pool {pool!r}; known are: {known}. KEDA asks again."
            await context.abort(grpc.StatusCode.UNAVAILABLE, message)
        return self._follower.targets[pool]

    @staticmethod
    async def _pool(ref: messages.ScaledObjectRef, context: _Context) -> str:
        pool = ref.scalerMetadata.get("pool", "")
        if not pool:
            message = f"The trigger of {ref.namespace}/{ref.name} names no pool. Set metadata.pool in its ScaledObject."
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        return pool


def make_server(scaler: KedaScaler, listen: str) -> tuple[grpc.aio.Server, int]:
    """Make the gRPC server on *listen* (HOST:PORT; port 0 takes a free one); give it and its port, not started yet."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, _handlers(scaler)),))
    return server, server.add_insecure_port(listen)


def _handlers(scaler: KedaScaler) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
    ref = messages.ScaledObjectRef.FromString
    return {
        "IsActive": _unary(scaler.is_active, ref),
        "StreamIsActive": grpc.unary_stream_rpc_method_handler(
            scaler.stream_is_active, ref, messages.IsActiveResponse.SerializeToString
        ),
        "GetMetricSpec": _unary(scaler.metric_spec, ref),
        "GetMetrics": _unary(scaler.metrics, messages.GetMetricsRequest.FromString),
    }


def _unary(method: Callable[..., Awaitable[Any]], read: Callable[[bytes], Any]) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(method, read, lambda answer: answer.SerializeToString())
