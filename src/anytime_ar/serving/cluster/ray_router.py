"""Route calls within Ray Serve to the replica that they name."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from anytime_ar.serving.cluster.replica_registry import set_running_replicas

TARGET_KWARG = "target_replica"
"""Keyword argument of a call that names the target replica."""


class TargetReplicaRouter(RequestRouter):
    """A Ray Serve router that sends each call to its target replica.

    Calls without a target, or whose target is not running, go to any replica.
    """

    @property
    def supports_rejection_protocol(self) -> bool:
        """Return False, because replicas refuse calls in their replies."""
        return False

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Replace the list of running replicas."""
        super().update_replicas(replicas)
        self._register_running()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Remove a replica whose actor has died."""
        super().on_replica_actor_died(replica_id)
        self._register_running()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return the target replica of a request, or all candidates; see `RequestRouter`."""
        kwargs: dict[Any, Any] = {} if pending_request is None else pending_request.kwargs
        target = kwargs.get(TARGET_KWARG)
        targeted = [one for one in candidate_replicas if one.replica_id.unique_id == target]
        return [targeted or candidate_replicas]

    def _register_running(self) -> None:
        """Publish the names of the running replicas to the registry."""
        names = (replica_id.unique_id for replica_id in self.curr_replicas)
        set_running_replicas(self._deployment_id.name, names)
