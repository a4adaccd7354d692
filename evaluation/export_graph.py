"""The network of a run as one graph, from pixels to feature, cluster and probability: `torch.export` and ONNX."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from data.view_ops import sobel
from evaluation.export_contents import Contents, Outputs
from models.method import Method
from models.state import ClusterState
from torch_clustering.gaussians import Kind, whitening
from utils.compat import installed
from utils.errors import UserError

ONE_FILE = 2**31 - 2**24  # bytes of weights that an ONNX file can hold itself, as protobuf counts them


def write_torch_export(contents: Contents, folder: Path) -> str:
    """Write model.pt2 with metadata.json in it; returns the code that loads and calls it."""
    program = trace(contents)
    with _quiet():
        torch.export.save(program, folder / "model.pt2", extra_files={"metadata.json": json.dumps(contents.facts())})
    return """import torch

network = torch.export.load("model.pt2").module()
with torch.no_grad():
    outputs = network(pixels)
"""


def write_onnx(contents: Contents, folder: Path) -> str:
    """Write model.onnx with its metadata; returns the code that loads and calls it. Above 2 GB weights lie beside it.

    Raises:
        UserError: a package is missing, or the network has an operation that ONNX lacks.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if not installed(package):
            raise UserError("--to onnx", f"the package {package} is not installed", f"pip install {package}")
    program = trace(contents)
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    with _quiet():
        try:
            made = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=["pixels"], output_names=contents.outputs
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise UserError("--to onnx", f"ONNX cannot hold this network: {reason}", "use torch-export") from None
        assert made is not None
        for end in (*made.model.graph.inputs, *made.model.graph.outputs):
            assert end.shape is not None
            end.shape[0] = "batch"
        for name, value in contents.facts().items():
            made.model.metadata_props[name] = value if isinstance(value, str) else json.dumps(value)
        made.save(folder / "model.onnx", external_data=size > ONE_FILE)
    return f"""import onnxruntime

network = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
outputs = dict(zip({json.dumps(contents.outputs)}, network.run(None, {{"pixels": pixels}})))
"""


class Network(nn.Module):
    """(B, C, H, W) float32 pixels from 0 to 1 to `Outputs`, everything in float32 but the last step to clusters."""

    mean: Tensor
    std: Tensor

    def __init__(self, contents: Contents) -> None:
        super().__init__()
        method = copy.deepcopy(contents.run.method)
        self.method: Method = method.to(torch.float32).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for name, values in zip(("mean", "std"), contents.normal, strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None])
        self.edges, self.state = contents.run.settings.views.sobel, contents.state
        self.posterior = None if contents.state is None else make_posterior(self.method, contents.state)
        extra = {} if contents.state is None else contents.state.extra
        self.numbers = {name: value.float() for name, value in extra.items() if value.is_floating_point()}
        # constants when the graph is drawn: which head, which nothing in it can choose
        self.choices = {name: value.tolist() for name, value in extra.items() if name not in self.numbers}

    def forward(self, pixels: Tensor) -> Outputs:
        """`Outputs` of the pixels."""
        images = (pixels - self.mean) / self.std
        images = sobel(images) if self.edges else images
        if self.state is None:
            return {"feature": self.method.encode(images)}
        feature = self.method.embed(images)
        probability = self.posterior(feature) if self.posterior else self.method.assign(images, self._state())
        return {"feature": feature, "cluster": probability.argmax(1), "probability": probability.float()}

    def _state(self) -> ClusterState:
        assert self.state is not None
        centers = None if self.state.centers is None else self.state.centers.float()
        chosen = {name: torch.tensor(value) for name, value in self.choices.items()}
        return ClusterState(centers=centers, extra={**self.numbers, **chosen})


class Posterior(nn.Module):
    """(B, D) features to the (B, K) float64 posterior of Gaussians: `models.parts.centers.memberships` without `cdist`
    and chunks, which graphs do not have.
    """

    means: Tensor
    factor: Tensor
    constant: Tensor

    def __init__(self, kind: Kind, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__()
        means, factor = means.double(), whitening(kind, covariances.double())
        if kind in ("full", "tied"):
            log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            factor = factor.view(len(means), 1, -1)  # (K, 1, D or 1)
            log_scale = factor.expand(-1, -1, means.shape[1]).log().sum((1, 2))
        self.full = kind in ("full", "tied")
        self.register_buffer("means", means)
        self.register_buffer("factor", factor)
        self.register_buffer("constant", weights.double().log() + log_scale)  # (K,)

    def forward(self, features: Tensor) -> Tensor:
        """Rows of sum 1."""
        distances = F.normalize(features, dim=1).double() - self.means[:, None]  # (K, B, D)
        whitened = distances @ self.factor if self.full else distances * self.factor
        return torch.softmax(self.constant - 0.5 * whitened.square().sum(2).T, dim=1)


def make_posterior(method: Method, state: ClusterState) -> Posterior | None:
    """For what `Method.assign` makes of a mixture or of Euclidean KMeans; None where a graph can hold `assign` itself.

    Euclidean KMeans, softmax(-d² / (2 spread)), is a mixture of equal weights and of one variance.
    """
    config, centers = method.estep, state.centers
    if type(method).assign is not Method.assign or centers is None:
        return None
    if config.algorithm == "gmm":
        return Posterior(config.covariance, state.extra["weights"], centers, state.extra["covariances"])
    if config.metric == "euclidean":
        spread = state.extra["spread"].double().clamp_min(torch.finfo(torch.float32).tiny)
        return Posterior("spherical", torch.ones(len(centers)), centers, spread.expand(len(centers)))
    return None


def trace(contents: Contents) -> ExportedProgram:
    """The network as a graph of any batch size, without what it does twice or does not need.

    Raises:
        UserError: the method's code does what no graph can hold.
    """
    network, example = Network(contents).eval(), torch.zeros(2, *contents.shape)
    with _quiet(), torch.no_grad():
        try:
            program = torch.export.export(network, (example,), dynamic_shapes={"pixels": {0: Dim("batch", min=1)}})
            program = program.run_decompositions({})  # nothing in place any more, no autocast regions
        except Exception as error:  # the parts of torch that draw graphs have each their own
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError("export", f"no graph can hold this network: {reason}", "use safetensors") from None
    _drop_repeated(program)
    _drop_unused(program)
    return program


def _drop_repeated(program: ExportedProgram) -> None:
    """`embed` and `assign` both run the encoder: the second of equal operations is replaced by the first."""
    seen: dict[Any, Any] = {}
    for node in list(program.graph.nodes):
        if node.op != "call_function" or not node.users:
            continue
        first = seen.setdefault((node.target, node.args, tuple(node.kwargs.items())), node)
        if first is not node:
            node.replace_all_uses_with(first)
            program.graph.erase_node(node)
    program.graph_module.recompile()


def _drop_unused(program: ExportedProgram) -> None:
    """Projectors, predictors, queues and banks that training alone needs."""
    signature = program.graph_signature
    for node in [node for node in program.graph.nodes if node.op == "placeholder" and not node.users]:
        spec = next(spec for spec in signature.input_specs if spec.arg.name == node.name)
        if spec.target is not None:
            signature.input_specs.remove(spec)
            program.state_dict.pop(spec.target, None)
            program.constants.pop(spec.target, None)
            program.graph.erase_node(node)
    program.graph_module.recompile()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters' own code warns of."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
