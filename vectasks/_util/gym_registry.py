"""Take what this process has registered with Gymnasium to another."""

from __future__ import annotations

import logging
import pickle
import warnings
from typing import Any

from vectasks._util import pickling

logger: logging.Logger = logging.getLogger("vectasks.worker")


def registrations() -> bytes:
    """Return what this process has registered with Gymnasium, for :func:`adopt_registrations`.

    By id: the spec, its pickle where that may fail for what the user gave, or why there is none.
    """
    from gymnasium.envs.registration import registry

    return pickle.dumps({env_id: _packed(spec) for env_id, spec in registry.items()}, protocol=5)


def _packed(spec: Any) -> Any:
    if _is_plain(
        [spec.entry_point, spec.kwargs, spec.vector_entry_point, spec.additional_wrappers]
    ):
        return spec  # with others, which takes half as long
    try:
        return pickling.dumps(spec)
    except Exception as error:  # user code: an entry point that holds what does not travel
        logger.warning("Gymnasium's registration of %s does not travel to workers", spec.id)
        return f"it cannot be pickled ({type(error).__name__}: {error})"


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return _is_plain([*value, *value.values()])
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return type(value) in (type(None), bool, int, float, str)


def adopt_registrations(data: bytes) -> None:
    """Register what another process had registered with Gymnasium.

    Making an environment whose registration did not travel raises why, unless it is known here.
    """
    from gymnasium.envs.registration import EnvSpec, registry

    for env_id, spec in pickle.loads(data).items():
        if type(spec) is bytes:
            try:
                spec = pickle.loads(spec)
            except Exception as error:  # user code: what it is made of may not be found here
                spec = f"it cannot be unpickled here ({type(error).__name__}: {error})"
        if type(spec) is not str:
            registry[env_id] = spec
        elif env_id not in registry:
            registry[env_id] = EnvSpec(env_id, entry_point=_DidNotTravel(env_id, spec))
    # The packages that made them register them again when they are imported here.
    warnings.filterwarnings("ignore", message=r".*Overriding environment .* already in registry")


class _DidNotTravel:
    """Stands in a worker for the entry point of an environment that could not be sent there."""

    def __init__(self, env_id: str, why: str) -> None:
        self._message = (
            f"{env_id} is registered with Gymnasium in the parent process, but its registration "
            f"did not travel to this worker: {why}. Register it with entry_point='module:Class', "
            "or register it in make_sampler_fn, which runs in the worker."
        )

    def __call__(self, **_: Any) -> Any:
        from gymnasium.error import UnregisteredEnv

        raise UnregisteredEnv(self._message)
