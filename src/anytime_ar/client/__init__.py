"""Clients of `anytime serve`, synchronous and asynchronous.

    from anytime_ar.client import Client

    with Client("http://127.0.0.1:8000") as client:
        result = client.sample(16, label="7", deadline_s=0.5)
        result.data                       # float32 [16, 1, 28, 28] in [-1, 1]
        result.codes_drawn, result.stop_reason
        for preview in client.stream(4):
            ...
        better = client.refine(result.id)

`AsyncClient` has the same methods as coroutines, and asynchronous iterators for streams.
"""

from anytime_ar.client.clients import AsyncClient, Client
from anytime_ar.client.protocol import RemoteCodes, RemotePreview, RemoteSampleResult, RequestFailed

__all__ = [
    "AsyncClient",
    "Client",
    "RemoteCodes",
    "RemotePreview",
    "RemoteSampleResult",
    "RequestFailed",
]
