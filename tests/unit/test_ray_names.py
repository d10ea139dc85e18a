"""What a Ray program finds after `import actorflow as ray`, and under `from actorflow...` instead of `from ray...`."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import actorflow as af
import actorflow as ray

TOP = (
    "init shutdown is_initialized remote get put wait kill get_actor method nodes cluster_resources "
    "available_resources get_runtime_context get_gpu_ids ObjectRef ObjectRefGenerator cancel "
    "util exceptions actor remote_function cloudpickle"
)

MODULES = {
    "actorflow.dag": "DAGNode InputNode InputAttributeNode ClassMethodNode MultiOutputNode",
    "actorflow.experimental.collective": "allreduce allgather reducescatter create_collective_group "
    "destroy_collective_group",
    "actorflow.util.collective": "init_collective_group create_collective_group destroy_collective_group get_rank "
    "get_collective_group_size is_group_initialized get_group_handle allreduce broadcast reduce allgather "
    "reducescatter send recv barrier nccl_available gloo_available",
    "actorflow.actor": "ActorHandle ActorClass ActorMethod exit_actor method",
    "actorflow.remote_function": "RemoteFunction",
    "actorflow.runtime_context": "RuntimeContext get_runtime_context",
    "actorflow.types": "ObjectRef",
    "actorflow.util": "ActorPool inspect_serializability register_serializer deregister_serializer as_completed "
    "map_unordered list_named_actors placement_group get_placement_group remove_placement_group "
    "placement_group_table get_current_placement_group",
    "actorflow.util.placement_group": "PlacementGroup placement_group remove_placement_group",
    "actorflow.util.scheduling_strategies": "NodeAffinitySchedulingStrategy NodeLabelSchedulingStrategy "
    "PlacementGroupSchedulingStrategy",
    "actorflow.util.actor_pool": "ActorPool",
    "actorflow.util.queue": "Queue Empty Full",
    "actorflow.util.multiprocessing": "Pool AsyncResult",
    "actorflow.exceptions": "RayError RayTaskError RayActorError ActorDiedError ActorUnavailableError "
    "ActorUnschedulableError GetTimeoutError TaskCancelledError ObjectStoreFullError WorkerCrashedError RaySystemError "
    "ObjectLostError ObjectFreedError OwnerDiedError ObjectReconstructionFailedError OutOfMemoryError OutOfDiskError "
    "NodeDiedError LocalRayletDiedError PendingCallsLimitExceeded RuntimeEnvSetupError AuthenticationError "
    "RayChannelError RayChannelTimeoutError RayCgraphCapacityExceeded TaskPlacementGroupRemoved "
    "ActorPlacementGroupRemoved TaskUnschedulableError ObjectReconstructionFailedLineageEvictedError "
    "ObjectReconstructionFailedMaxAttemptsExceededError",
    "actorflow.util.serialization": "register_serializer deregister_serializer inspect_serializability",
}


def test_top_names() -> None:
    missing = [name for name in TOP.split() if not hasattr(ray, name)]
    assert not missing
    assert not hasattr(ray, "cross_language")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules(module: str) -> None:
    loaded = importlib.import_module(module)
    assert not [name for name in MODULES[module].split() if not hasattr(loaded, name)]


def test_aliases_are_the_same_classes() -> None:
    assert ray.exceptions.RayTaskError is af.TaskError
    assert ray.exceptions.RayActorError is af.ActorError
    assert ray.exceptions.RayError is af.ActorflowError
    assert issubclass(ray.exceptions.GetTimeoutError, TimeoutError)


def test_what_exceptions_names_is_there() -> None:
    assert [
        name for name in ray.exceptions.__all__ if not issubclass(getattr(ray.exceptions, name), Exception)
    ] == []


def test_what_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = af.util.nothing


def test_what_not_everybody_needs_is_imported_at_first_use() -> None:
    code = (
        "import sys, actorflow as ray\n"
        "late = {'actor_pool', 'executor', 'queue', 'multiprocessing', 'helpers'}\n"
        "assert not [name for name in late if 'actorflow.util.' + name in sys.modules]\n"
        "ray.util.ActorPool, ray.util.queue.Queue, ray.util.multiprocessing.Pool, ray.util.ActorflowExecutor\n"
        "ray.util.as_completed, ray.util.map_unordered\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
