"""A joblib backend: `with joblib.parallel_backend("actorflow")` runs scikit-learn's and others' loops in the node.

joblib is needed to import this module.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, register_parallel_backend

from actorflow.util.crew import cpus
from actorflow.util.executor import ActorflowExecutor

Future = concurrent.futures.Future[Any]


class ActorflowBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc] # joblib has no types
    """Runs batches of calls in the processes of an ActorflowExecutor, which lives as long as joblib configures it.

    `actor_options` (or `ray_remote_args`): options of the processes' actors.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = False
    default_n_jobs = -1

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        actor_options: dict[str, Any] | None = None,
        ray_remote_args: dict[str, Any] | None = None,
        **backend_kwargs: Any,
    ) -> None:
        super().__init__(
            nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **backend_kwargs
        )
        self._actor_options = {**(ray_remote_args or {}), **(actor_options or {})}
        self._executor: ActorflowExecutor | None = None
        self._size = 1

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Processes for n_jobs: -1 is one per CPU of the node, -2 one less; None is 1. ValueError for 0."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, cpus() + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Makes ready for `parallel`; how many processes it has."""
        self.parallel = parallel
        self._size = self.effective_n_jobs(n_jobs)
        self._executor = self._new_executor()
        return self._size

    def submit(self, func: Callable[[], Any], callback: Callable[[Future], Any] | None = None) -> Future:
        """Sends a batch; `callback` gets its future when it is done."""
        if self._executor is None:
            self._executor = self._new_executor()
        future = self._executor.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # what joblib before 1.5 calls

    def retrieve_result_callback(self, out: Future) -> Any:
        """What a batch returned, or raises what it raised."""
        return out.result()

    def terminate(self) -> None:
        """Ends the processes once they are done."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Ends the processes at once: a batch has failed."""
        if self._executor is not None:
            self._executor.kill_workers()
            self._executor = self._new_executor() if ensure_ready else None

    def _new_executor(self) -> ActorflowExecutor:
        return ActorflowExecutor(self._size, actor_options=self._actor_options)


def register_actorflow() -> None:
    """Makes the backend known to joblib as "actorflow"."""
    register_parallel_backend("actorflow", ActorflowBackend)


def register_ray() -> None:
    """Makes the backend known to joblib as "ray", for programs that use that name."""
    register_parallel_backend("ray", ActorflowBackend)
