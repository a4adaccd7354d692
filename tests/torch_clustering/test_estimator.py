"""KMeans and MiniBatchKMeans as estimators of scikit-learn: its own checks, kinds of data, and life without it."""

import importlib
import pickle
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import torch_clustering
from tests.torch_clustering.made import close, made_rows
from torch_clustering import ConvergenceWarning, KMeans, _checks
from torch_clustering.minibatch import MiniBatchKMeans

BOTH = [KMeans, MiniBatchKMeans]
CANNOT_HOLD = {
    "check_sample_weight_equivalence_on_dense_data": "first centers are drawn among rows: a row of weight 2 is one of "
    "N, a repeated row two of N + 1; scikit-learn expects the same of its KMeans"
}


@parametrize_with_checks([KMeans(), MiniBatchKMeans()], expected_failed_checks=lambda _: CANNOT_HOLD)
def test_scikit_learn_finds_no_fault(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some checks have fewer distinct rows than clusters
        check(estimator)


@pytest.mark.parametrize("kind", BOTH)
def test_pipelines_and_grid_searches_take_it(kind: type) -> None:
    x = made_rows(60, 5).numpy()
    pipeline = make_pipeline(StandardScaler(), kind(3)).fit(x)
    assert pipeline.predict(x).tolist() == pipeline[-1].labels_.tolist()
    assert pipeline.transform(x).shape == (60, 3) and pipeline.score(x) == pytest.approx(-pipeline[-1].inertia_)
    assert pipeline.get_feature_names_out().tolist() == [f"{kind.__name__.lower()}{k}" for k in range(3)]
    assert get_tags(kind()).transformer_tags.preserves_dtype == ["float64", "float32"]
    search = GridSearchCV(kind(), {"n_clusters": [2, 7]}, cv=2).fit(x)
    assert search.best_params_ == {"n_clusters": 7} and len(search.best_estimator_.cluster_centers_) == 7


@pytest.mark.parametrize("kind", BOTH)
def test_results_are_of_the_kind_that_came_in(kind: type) -> None:
    x = made_rows(60, 5)
    by_tensor, by_array, by_list = kind(3).fit(x), kind(3).fit(x.numpy()), kind(3).fit(x.tolist())
    assert repr(kind(3, tol=0.5)).startswith(kind.__name__) and "tol=0.5" in repr(kind(3, tol=0.5))
    for model in (by_array, by_list):
        assert isinstance(model.labels_, np.ndarray) and model.labels_.dtype == np.int64
        assert isinstance(model.cluster_centers_, np.ndarray) and close(
            model.cluster_centers_, by_tensor.cluster_centers_
        )
    assert torch.equal(by_tensor.labels_, torch.as_tensor(by_array.labels_)) and by_tensor.labels_.dtype == torch.int64
    for model in (by_tensor, by_array):  # either kind, whatever was fitted
        assert isinstance(model.predict(x), torch.Tensor) and isinstance(model.transform(x), torch.Tensor)
        assert isinstance(model.predict(x.numpy()), np.ndarray) and isinstance(model.transform(x.tolist()), np.ndarray)
        assert isinstance(model.fit_predict(x), torch.Tensor) and isinstance(model.fit_transform(x.numpy()), np.ndarray)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8]
)
def test_every_dtype_is_computed_in_float32_or_float64(kind: type, dtype: torch.dtype) -> None:
    x = (10 * made_rows(29, 5) + 100).to(dtype)
    computed = dtype if dtype == torch.float64 else torch.float32
    model, expected = kind(3).fit(x), kind(3).fit(x.to(computed))
    assert torch.equal(model.labels_, expected.labels_) and model.cluster_centers_.dtype == computed
    assert model.transform(x).dtype == computed
    for other in (torch.float32, torch.float64):  # rows of the other precision than the fitted
        assert torch.equal(model.predict(x.to(other)), model.labels_)
        assert model.transform(x.to(other)).dtype == other
        assert model.score(x.to(other)) == pytest.approx(-model.inertia_, rel=1e-5)
    if dtype != torch.bfloat16:
        assert kind(3).fit(x.numpy()).labels_.tolist() == model.labels_.tolist()


def test_rows_with_a_gradient_odd_strides_foreign_bytes_and_locked_memory_are_read_as_they_are() -> None:
    x = made_rows(29, 5)
    expected = KMeans(3).fit(x).cluster_centers_
    backwards, locked = x.flip(0).contiguous().numpy()[::-1], x.numpy().copy()
    locked.flags.writeable = False
    assert torch.equal(KMeans(3).fit(x.clone().requires_grad_()).cluster_centers_, expected)
    for rows in (backwards, locked, x.numpy().astype(">f8"), np.asfortranarray(x.numpy()), x.numpy().astype(object)):
        assert close(KMeans(3).fit(rows).cluster_centers_, expected)
    whole = (100 + 9 * x).round().numpy()
    expected = KMeans(3).fit(torch.from_numpy(whole).float()).cluster_centers_
    for kind in ("u1", "u4", ">i2", "i8"):
        assert close(KMeans(3).fit(whole.astype(kind)).cluster_centers_, expected)


@pytest.mark.parametrize("kind", BOTH)
def test_wrong_rows_at_predict_are_refused(kind: type) -> None:
    x = made_rows(13, 5)
    with pytest.raises(ValueError, match=f"This {kind.__name__} instance is not fitted"):
        kind().predict(x)
    model = kind(3).fit(x)
    for method in (model.predict, model.transform, model.score):
        with pytest.raises(ValueError, match="NaN or infinity"):
            method(torch.full_like(x, torch.nan))
        with pytest.raises(ValueError, match="X has 4 features, but .* is expecting 5"):
            method(x[:, :4])
        with pytest.raises(TypeError, match="[Ss]parse"):
            method(csr_array(x.numpy()))
        with pytest.raises(ValueError, match=r"Reshape your data"):
            method(x[0])
    assert len(model.predict(x[:0])) == 0 and model.transform(x[:0].numpy()).shape == (0, 3)


def test_rows_on_the_cpu_and_a_group_that_speaks_nccl_are_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "home", lambda group: "cuda")
    with pytest.raises(ValueError, match="NCCL: move them to CUDA, or use gloo"):
        _checks.make_shard(torch.rand(5, 3), None, 1, None)


def test_without_scikit_learn_the_same_clusters_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_checks", "_bare", "_estimator", "_centers", "kmeans", "minibatch"):
        if f"torch_clustering.{name}" in sys.modules:
            monkeypatch.delitem(sys.modules, f"torch_clustering.{name}")
        # the import below puts the new module here, too
        monkeypatch.setattr(torch_clustering, name, getattr(torch_clustering, name, None), raising=False)
    for name in ("sklearn.base", "sklearn.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    bare = importlib.import_module("torch_clustering.minibatch")
    x = made_rows(60, 5).numpy()
    for kind, expected in zip(
        (importlib.import_module("torch_clustering.kmeans").KMeans, bare.MiniBatchKMeans), BOTH, strict=True
    ):
        assert "sklearn" not in str(kind.__mro__)
        model = kind(5).set_params(n_clusters=3)
        with pytest.raises(ValueError, match="not fitted"):
            model.predict(x)
        assert model.fit_predict(x).tolist() == expected(3).fit(x).labels_.tolist()
        assert model.get_params() == expected(3).get_params() and repr(model) == f"{kind.__name__}(n_clusters=3)"
        assert model.n_features_in_ == 5 and pickle.loads(pickle.dumps(model.__getstate__()))["n_clusters"] == 3
        with pytest.raises(ValueError, match="X has 4 features, but .* is expecting 5"):
            model.predict(x[:, :4])
        with pytest.raises(ValueError, match="Invalid parameter 'k'.*'n_clusters'"):
            model.set_params(k=3)
