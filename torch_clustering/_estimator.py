"""What every estimator shares: scikit-learn's manners where it is installed, and one kind of data in and out.

n rows of one rank, D features.
"""

from collections.abc import Callable
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from torch_clustering._checks import NotFittedError, Shard, as_rows, check_finite, make_shard, refused_together
from torch_clustering._collectives import Group, gather, home

try:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        ClusterMixin,
        DensityMixin,
        TransformerMixin,
    )
    from sklearn.utils.validation import validate_data
except ImportError:
    from torch_clustering._bare import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        ClusterMixin,
        DensityMixin,
        TransformerMixin,
        validate_data,
    )

__all__ = [
    "ClassNamePrefixFeaturesOutMixin",
    "ClusterMixin",
    "DensityMixin",
    "Estimator",
    "Give",
    "TransformerMixin",
    "shared_seed",
]

Give = Callable[[Tensor], Any]


class Estimator(BaseEstimator):
    """Base of the models: parameters by name (`get_params`, `set_params`, `clone`), rows of either kind.

    A parameter named `group` is shared by clones and left out of pickles, as a process group can not be copied.
    """

    def _take(self, x: Any, *, reset: bool) -> tuple[Tensor, Give]:
        """(n, D) float32 or float64 rows of `x`, and the function that turns results into the kind that came in.

        A tensor in: tensors on its device out. Anything else in: NumPy arrays out. float64 and float32 stay as they
        are and are not copied, everything else becomes float32.

        Args:
            x: tensor, array, data frame or nested list; not written to.
            reset: remember the number and names of the features (`fit`), or compare with what is remembered.
        Raises:
            ValueError, TypeError: not 2-D, no or other features, complex, text, sparse; with `reset=False` also NaN
                or infinity, which in `fit` are found by `make_shard`, for all ranks alike.
        """
        rows = as_rows(x)
        validate_data(self, x, reset=reset, skip_check_array=True)
        if not reset:
            check_finite(rows)
        return rows, _as_it_is if isinstance(x, Tensor) else _to_array

    def _take_shard(
        self,
        x: Any,
        sample_weight: Any,
        n_clusters: int,
        group: Group | None,
        *,
        reset: bool = True,
        replicated: bool = False,
    ) -> tuple[Shard, Give]:
        """`_take` and `make_shard`: what is wrong on one rank is raised on all. Collective."""
        with refused_together(group):
            rows, give = self._take(x, reset=reset)
        return make_shard(rows, sample_weight, n_clusters, group, replicated=replicated), give

    def _check_fitted(self) -> None:
        """NotFittedError unless something was learnt, or a fitted attribute was set by hand."""
        if not any(name.endswith("_") and not name.startswith("__") for name in vars(self)):
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before "
                "using this estimator."
            )

    def __sklearn_clone__(self) -> Self:
        group = getattr(self, "group", None)
        if group is None:
            return super().__sklearn_clone__()
        self.group = None
        try:
            return super().__sklearn_clone__().set_params(group=group)
        finally:
            self.group = group

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {**state, "group": None} if "group" in state else state


def shared_seed(random_state: Any, group: Group | None) -> int:
    """A seed >= 0, which is rank 0's on all ranks. Collective.

    random_state: an int is itself; None gives another one each time; NumPy's RandomState or Generator draw one.
    """
    if random_state is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    elif isinstance(random_state, np.random.Generator):
        seed = int(random_state.integers(2**31))
    elif isinstance(random_state, np.random.RandomState):
        seed = int(random_state.randint(2**31 - 1))
    elif isinstance(random_state, Integral) and 0 <= int(random_state) < 2**63:
        seed = int(random_state)
    else:
        raise ValueError(
            f"random_state={random_state!r} is neither an int from 0 to 2^63 - 1 nor None nor a generator of NumPy"
        )
    return int(gather(torch.tensor([seed], device=home(group)), group)[0])


def _as_it_is(result: Tensor) -> Tensor:
    return result


def _to_array(result: Tensor) -> np.ndarray:
    return result.numpy()
