"""How calls within Ray Serve find the replica that they are meant for."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from anytime_ar.serving.cluster.replica_registry import set_running_replicas

TARGET_KWARG = "target_replica"
"""The keyword argument of a call that names its replica."""


class TargetReplicaRouter(RequestRouter):
    """Sends a call where it is meant to go, and one that is meant for none, or for one that has
    gone, anywhere."""

    @property
    def supports_rejection_protocol(self) -> bool:
        """Replicas say themselves, in an answer, what they have no room for."""
        return False

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """There are others now."""
        super().update_replicas(replicas)
        self._register_running()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """One has gone."""
        super().on_replica_actor_died(replica_id)
        self._register_running()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """See `RequestRouter`."""
        kwargs: dict[Any, Any] = {} if pending_request is None else pending_request.kwargs
        aim = kwargs.get(TARGET_KWARG)
        aimed = [one for one in candidate_replicas if one.replica_id.unique_id == aim]
        return [aimed or candidate_replicas]

    def _register_running(self) -> None:
        names = (replica_id.unique_id for replica_id in self.curr_replicas)
        set_running_replicas(self._deployment_id.name, names)
