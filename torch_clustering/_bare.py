"""The few of scikit-learn's base classes that the estimators lean on, for machines without scikit-learn."""

import inspect
from typing import Any, Self


class BaseEstimator:
    """Parameters by name: the arguments of `__init__`, kept as attributes of the same names."""

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return sorted(name for name in inspect.signature(cls.__init__).parameters if name != "self")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters and their values."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any) -> Self:
        """Change parameters; ValueError for a name that is none."""
        names = self._parameter_names()
        for name, value in params.items():
            if name not in names:
                raise ValueError(f"Invalid parameter {name!r} for {type(self).__name__}. Valid parameters are: {names}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self).__init__).parameters
        given = [
            f"{name}={value!r}" for name, value in self.get_params().items() if value is not parameters[name].default
        ]
        return f"{type(self).__name__}({', '.join(given)})"


class ClusterMixin:
    """A marker in scikit-learn's sense."""


class DensityMixin:
    """A marker in scikit-learn's sense."""


class TransformerMixin:
    """A marker in scikit-learn's sense."""


class ClassNamePrefixFeaturesOutMixin:
    """A marker in scikit-learn's sense."""


def validate_data(estimator: Any, x: Any, *, reset: bool, skip_check_array: bool) -> None:
    """Remember the number of features of `x` (n, D), or compare it with the one that is remembered."""
    found = len(x[0]) if isinstance(x, list | tuple) else x.shape[1]
    if reset:
        estimator.n_features_in_ = found
    expected = getattr(estimator, "n_features_in_", found)
    if found != expected:
        name = type(estimator).__name__
        raise ValueError(f"X has {found} features, but {name} is expecting {expected} features as input.")
