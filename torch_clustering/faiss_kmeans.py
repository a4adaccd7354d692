"""faiss's k-means under the earlier library's name. N rows, D features, K clusters."""

from typing import Any, Literal

import torch
from torch import Tensor

from torch_clustering._centers import unit_rows
from torch_clustering._checks import as_rows, check_finite, refused_together
from torch_clustering._collectives import everyone, gather, home, rank


class FaissKMeans:
    """faiss's k-means, on its CPU or its GPU build. `KMeans` starts better and stops when nothing moves.

    faiss starts from random rows, makes `max_iter` passes whatever happens, and here leaves no row out.

    Args:
        metric: "euclidean", or "cosine": rows and centers are brought to length 1.
        n_clusters, n_init, max_iter, random_state: K, restarts, passes, seed.
        distributed: every rank of the default process group passes the same rows; rank 0 clusters them for all.
        verbose: faiss prints its passes.

    After `fit_predict`: cluster_centers_ (K, D) float32, of the kind that came in.
    """

    cluster_centers_: Any

    def __init__(
        self,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        n_clusters: int = 8,
        n_init: int = 10,
        max_iter: int = 300,
        random_state: int = 1234,
        distributed: bool = False,
        verbose: bool = True,
    ) -> None:
        self.metric, self.n_clusters, self.n_init, self.max_iter = metric, n_clusters, n_init, max_iter
        self.random_state, self.distributed, self.verbose = random_state, distributed, verbose

    @torch.no_grad()
    def fit_predict(self, input: Any, device: int = -1) -> Any:
        """(N,) int64 labels: a tensor on the rows' device, an array for an array. Collective if `distributed`.

        Args:
            input: (N, D) rows, tensor or array, computed in float32.
            device: number of the CUDA device that clusters, -1 for the CPU.
        Raises:
            ImportError: faiss is not installed, or has no GPU support and `device` asks for it.
            ValueError: fewer rows than clusters, NaN or infinity.
        """
        faiss = import_faiss(device)
        group = everyone() if self.distributed else None
        with refused_together(group):
            rows = as_rows(input)
            check_finite(rows)
            if len(rows) < self.n_clusters:
                raise ValueError(f"{len(rows)} rows for {self.n_clusters} clusters")
        labels = torch.zeros(len(rows), dtype=torch.int64)
        centers = torch.zeros((self.n_clusters, rows.shape[1]))
        if rank(group) == 0:
            x = rows.float().cpu()
            centers, labels = self._cluster(faiss, unit_rows(x) if self.metric == "cosine" else x, device)
        told = [gather(result.to(home(group)), group)[0].to(rows.device) for result in (centers, labels)]
        self.cluster_centers_, found = told if isinstance(input, Tensor) else [result.numpy() for result in told]
        return found

    def _cluster(self, faiss: Any, x: Tensor, device: int) -> tuple[Tensor, Tensor]:
        """Centers (K, D) and labels (N,) of rows x (N, D) float32."""
        cosine = self.metric == "cosine"
        index = faiss.IndexFlatIP(x.shape[1]) if cosine else faiss.IndexFlatL2(x.shape[1])
        if device >= 0:
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device, index)
        run = faiss.Clustering(x.shape[1], self.n_clusters)
        run.niter, run.nredo, run.seed, run.verbose = self.max_iter, self.n_init, self.random_state, self.verbose
        run.spherical, run.min_points_per_centroid = cosine, 1
        run.max_points_per_centroid = len(x)  # faiss's own limit of 256 would cluster a sample
        array = x.contiguous().numpy()
        run.train(array, index)
        centers = faiss.vector_to_array(run.centroids).reshape(self.n_clusters, x.shape[1])
        index.reset()
        index.add(centers)
        return torch.from_numpy(centers), torch.from_numpy(index.search(array, 1)[1][:, 0])


def import_faiss(device: int) -> Any:
    """The faiss module; ImportError with the remedy where it is missing, or without the GPU that is asked for."""
    try:
        import faiss
    except ImportError:
        raise ImportError("FaissKMeans needs faiss: pip install faiss-cpu (or faiss-gpu), or use KMeans") from None
    if device >= 0 and not hasattr(faiss, "StandardGpuResources"):
        raise ImportError(f"device={device}: this faiss has no GPU support; install faiss-gpu, or pass device=-1")
    return faiss
