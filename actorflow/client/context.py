"""af.get_runtime_context: who this code is to the runtime. All is looked up when it is asked for; a call pays nothing.

A thread that user code started is in the process' context, but in no call: what concerns the call is None there.
"""

from __future__ import annotations

import json
from typing import Any

from actorflow import _hot, ids
from actorflow.client import assignment, cluster, runtime
from actorflow.runtime_env import environment


class RuntimeContext:
    """The driver's, the task's or the actor call's view of itself. Ids are hexadecimal texts."""

    def get_job_id(self) -> str:
        """The id of the job: of one driver and all that runs for it. A detached actor has a job of its own."""
        return f"{runtime.require().job_id:08x}"

    def get_node_id(self) -> str:
        """The id of the node on which this runs."""
        return runtime.require().node_id

    def get_worker_id(self) -> str:
        """The id of this process on its node."""
        runtime.ensure()
        _, slot, epoch = _hot.identity()
        return f"{slot:08x}{epoch:08x}"

    def get_task_id(self) -> str | None:
        """The id of the call that runs here, that of its (first) ref; None in a driver."""
        call = _current_call()
        return ids.hex_of(call[0]) if call is not None else None

    def get_task_name(self) -> str | None:
        """The name of the function or method (`Class.method`) that runs here; None in a driver."""
        call, name_of = _current_call(), assignment.current().name_of
        return name_of(call[1], call[2]) if call is not None and name_of is not None else None

    def get_task_function_name(self) -> str | None:
        """The same as `get_task_name`."""
        return self.get_task_name()

    def get_attempt_number(self) -> int | None:
        """Which attempt this is of the call that runs here, the first one being 0; None in a driver."""
        call = _current_call()
        return call[3] if call is not None else None

    def get_actor_id(self) -> str | None:
        """The id of the actor that this process is; None where it is none."""
        return assignment.current().actor_id

    def get_actor_name(self) -> str | None:
        """The name of the actor that this process is, "" for one without; None where it is no actor."""
        return assignment.current().actor_name

    @property
    def current_actor(self) -> Any:
        """A handle of the actor that this process is, to be passed on. RuntimeError where it is none."""
        handle = assignment.current().handle
        if handle is None:
            raise RuntimeError("current_actor is for methods of actors: this process hosts none")
        return handle()

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor that this process is has lost a process before. RuntimeError where it is none."""
        if assignment.current().actor_id is None:
            raise RuntimeError(
                "was_current_actor_reconstructed is for methods of actors: this process hosts none"
            )
        return assignment.current().restarts > 0

    @property
    def namespace(self) -> str:
        """Where this job's actors have their names, unless they are told another."""
        return runtime.require().namespace

    def get_assigned_resources(self) -> dict[str, float]:
        """What the running task, or the actor, was given of each resource, in ones; {} in a driver."""
        return dict(assignment.current().resources)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The accelerators that were given to the task or actor, by kind: {"GPU": ["0"]}."""
        return {"GPU": list(assignment.current().gpus)}

    def get_placement_group_id(self) -> str | None:
        """The id of the placement group in which this task or actor runs; None in none."""
        group = assignment.current().group
        return None if group is None else ids.bytes_of_group(group[0]).hex()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what is called from here runs in the same placement group, unless it is told otherwise."""
        group = assignment.current().group
        return group is not None and group[2]

    @property
    def runtime_env(self) -> environment.RuntimeEnv:
        """The environment of this process, as calls inherit it that name none; empty for that of the driver."""
        return environment.RuntimeEnv(**json.loads(runtime.require().environment or "{}"))

    def get_runtime_env_string(self) -> str:
        """The same as JSON."""
        return runtime.require().environment or "{}"

    def get_node_labels(self) -> dict[str, str]:
        """The labels of the node on which this runs. Asks the node."""
        (node,) = cluster.nodes()
        labels: dict[str, str] = node["Labels"]
        return labels

    def is_canceled(self) -> bool:
        """Whether somebody has asked for the end of the call that runs here, by af.cancel: for code that nothing
        interrupts, as in the threads of a threaded actor. RuntimeError in a driver, and in threads of your own."""
        call = _current_call()
        if call is None:
            raise RuntimeError("is_canceled() is for code of tasks and methods: no call runs in this thread")
        return bool(call[4])

    def get(self) -> dict[str, Any]:
        """The ids that there are here, by name."""
        found = {
            "job_id": self.get_job_id(),
            "node_id": self.get_node_id(),
            "worker_id": self.get_worker_id(),
            "namespace": self.namespace,
            "task_id": self.get_task_id(),
            "actor_id": self.get_actor_id(),
            "placement_group_id": self.get_placement_group_id(),
        }
        return {name: value for name, value in found.items() if value is not None}

    def __repr__(self) -> str:
        return f"RuntimeContext({', '.join(f'{name}={value!r}' for name, value in self.get().items())})"


def _current_call() -> tuple[tuple[int, int], tuple[int, int], int, int, int] | None:
    """(call, function, method, attempt, wish) of the call that this thread runs."""
    return _hot.current_call() if runtime.in_worker() else None


_CONTEXT = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """Who this code is to the runtime: ids, names, what it was given. Starts the runtime where there is none."""
    runtime.ensure()
    return _CONTEXT


def get_gpu_ids() -> list[int | str]:
    """The GPUs of this task or actor, as CUDA_VISIBLE_DEVICES names them, numbers as int; [] in a driver."""
    return [int(name) if name.isdigit() else name for name in assignment.current().gpus]
