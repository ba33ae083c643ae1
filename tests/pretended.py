"""A second device over the CPU's memory: what a GPU would refuse or wait for, seen without one.

`torch.device("pretended")` is torch's private-use device under another name. A `Far` tensor says that it is
there and keeps its numbers in an ordinary CPU tensor, so that they are the CPU's to the last bit. Three
layers see what is done with it:

    function mode   above autograd: what torch does in C on storage (`to`, `numpy`, `tolist`), factories,
                    attention as one operation
    autocast        CUDA's lists and its cache of cast weights, registered for the device
    dispatch        below autograd: every operation is checked, counted and done on the CPU

It finds
    - tensors of two devices in one operation, but where CUDA allows it: a CPU scalar that is read, a CPU
      index into a device tensor, `copy_`;
    - kernels, casts, what waits for the device (`item`, `tolist`, a copy that is not asynchronous, shapes
      that depend on numbers) and the bytes that cross, each with the nearest line of the package.

It cannot see the numbers, speed and memory of a GPU's kernels, its streams and graphs (an asynchronous copy
that is read too soon), code for `device.type == "cuda"`, and what libraries do below ATen. Fused and for-each
optimisers are not taken, since torch leaves subclasses out of them; attention is one kernel, softmax after a
cast two. Recomputation (`gradient_checkpointing`) around attention ends the process, and an operation that
changes a tensor's shape in place is not known.

torch keeps what is registered here for the life of a process. So nothing is registered by importing this, and
tests call it in an `own_process`.
"""

import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from types import CodeType
from typing import Any, Protocol, TypeVar

import torch
from cli import ROOT
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from mirrorpo.launch.fork_server import NEEDED

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["mirrorpo.launch.train", *NEEDED])

T = TypeVar("T")
aten = torch.ops.aten
NAME, NEAR = "pretended", torch.device("cpu")

# Kinds of a tally.
KERNEL, CAST, WEIGHT_CAST, SYNC = "kernel", "cast", "cast of a weight", "sync"
UP, DOWN = "bytes to the device", "bytes from the device"

# Operations that read a result back, or whose result has a shape that depends on numbers.
WAITS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.unique_dim_consecutive,
    aten.bincount,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
# They take no scalar of another device either.
ONE_DEVICE = {
    aten.gather,
    aten.scatter,
    aten.scatter_,
    aten.scatter_add,
    aten.scatter_add_,
    aten.index_select,
    aten.index_add,
    aten.index_add_,
    aten.index_copy,
    aten.index_copy_,
    aten.embedding,
    aten.searchsorted,
    aten.bucketize,
    aten.isin,
    aten.cat,
    aten.stack,
    aten.masked_scatter,
    aten.masked_scatter_,
}
ALLOCATES = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
NO_KERNEL = {
    *ALLOCATES,
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten._unsafe_view,
    aten.detach,
    aten.lift_fresh,
}

# CUDA's autocast (aten/src/ATen/autocast_mode.h), as far as a decoder and its losses go.
LOWER = [
    "linear",
    "matmul",
    "mm",
    "mv",
    "addmm",
    "addmv",
    "addr",
    "bmm",
    "baddbmm",
    "addbmm",
    "einsum",
    "conv1d",
]
WIDER = [
    "acos",
    "asin",
    "cosh",
    "erfinv",
    "exp",
    "expm1",
    "log",
    "log10",
    "log2",
    "log1p",
    "reciprocal",
    "rsqrt",
    "sinh",
    "tan",
    "pow.Tensor_Scalar",
    "pow.Tensor_Tensor",
    "pow.Scalar",
    "softplus",
    "layer_norm",
    "group_norm",
    "nll_loss",
    "mse_loss",
    "kl_div",
    "l1_loss",
    "huber_loss",
    "smooth_l1_loss",
    "cosine_similarity",
    "logsumexp",
    "dist",
    "cdist",
    "binary_cross_entropy_with_logits",
]
# They are told the wider dtype, which costs no cast of its own.
WIDER_RESULT = [
    "softmax.int",
    "log_softmax.int",
    "cumsum",
    "cumprod",
    "prod",
    "prod.dim_int",
    "sum",
    "sum.dim_IntList",
    "linalg_vector_norm",
]
WIDEST = ["cat", "stack", "dot", "addcmul", "addcdiv", "scatter_add", "index_put"]


class Mixed(RuntimeError):
    """Tensors of two devices in one operation that takes one device's."""


# ---------------------------------------------------------------- what is counted, and where


class Tally(Counter[tuple[str, str]]):
    """Counts by kind and by line of the package."""

    def of(self, kind: str) -> float:
        """The count of all lines."""
        return sum(count for (counted, _), count in self.items() if counted == kind)

    def kinds(self) -> list[str]:
        """The kinds that were counted."""
        return sorted({kind for kind, _ in self})

    def lines(self, kind: str) -> dict[str, float]:
        """The lines that own a kind, the largest first."""
        return {line: count for (counted, line), count in self.most_common() if counted == kind and count}

    def beyond(self, other: "Tally") -> "Tally":
        """What this has more than another, and with a minus sign what it has less."""
        out = Tally(self)
        out.subtract(other)
        return out

    def over(self, units: int) -> "Tally":
        """The counts of one of several alike units."""
        return Tally({key: count / units for key, count in self.items()})  # type: ignore[dict-item]


_open: list[Tally] = []


@contextmanager
def counting() -> Iterator[Tally]:
    """A tally of what is done on the device inside the block."""
    tally = Tally()
    _open.append(tally)
    try:
        yield tally
    finally:
        _open.remove(tally)


def _note(kind: str, amount: int = 1, reason: str = "") -> None:
    if _open and amount:
        line = f"{owner()} [{reason}]" if reason else owner()
        for tally in _open:
            tally[kind, line] += amount


PACKAGE = f"{ROOT}/src/mirrorpo/"


@cache
def _place(code: CodeType) -> tuple[bool, str]:
    # Whether a frame is the package's, and its file.
    if code.co_filename.startswith(PACKAGE):
        return True, code.co_filename.removeprefix(PACKAGE)
    _, library, path = code.co_filename.rpartition("/site-packages/")
    return False, path if library and not path.startswith("torch/") else ""


def owner() -> str:
    """The nearest line of the package, and behind it the line of a library other than torch below it.

    What the backward pass does is owned by the line that asked for it.
    """
    frame, below = sys._getframe(1), ""
    while frame is not None:
        ours, path = _place(frame.f_code)
        if ours:
            return f"{path}:{frame.f_lineno} {frame.f_code.co_name}{below}"
        if path and not below:
            below = f" < {path}:{frame.f_lineno}"
        frame = frame.f_back
    return f"(outside){below}"


# ---------------------------------------------------------------- tensors of the device


class Far(torch.Tensor):
    """A tensor of the device; its numbers lie in `near`."""

    near: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> "Far":
        # In inference mode a view of an ordinary tensor is an ordinary one.
        with (
            torch.inference_mode(near.is_inference()) if torch.is_inference_mode_enabled() else nullcontext()
        ):
            out = torch.Tensor._make_wrapper_subclass(
                cls,
                near.size(),
                strides=near.stride(),
                storage_offset=near.storage_offset(),
                dtype=near.dtype,
                layout=near.layout,
                device=torch.device(NAME, 0),
            )
        out.near = near
        return out

    # torch.nn.Module.to puts such a tensor in the place of a parameter, so that tied ones stay tied.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["near"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, torch.Tensor], meta: None, size: Any, stride: Any) -> "Far":
        return Far(inner["near"])

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            copied = Far(self.near.detach().clone())
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = (
                torch.nn.Parameter(copied, self.requires_grad)
                if is_parameter
                else copied.requires_grad_(self.requires_grad)
            )
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A file keeps the numbers; where they are read back to is the reader's to say.
        _note(SYNC, reason="save")
        _note(DOWN, self.near.nbytes)
        return self.near.detach().__reduce_ex__(protocol)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Far({self.near!r})"

    @classmethod
    def __torch_dispatch__(
        cls, func: OpOverload, types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _dispatched(func, args, kwargs or {})


def near(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's numbers on the CPU, whichever device it is on, uncounted."""
    return tensor.near if isinstance(tensor, Far) else tensor


def is_far(device: object) -> bool:
    """Whether a device, or a device's name, is the pretended one."""
    if isinstance(device, str):
        return device.partition(":")[0] == NAME
    return isinstance(device, torch.device) and device.type == NAME


# ---------------------------------------------------------------- below autograd: check, count, compute


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    # An operation's arguments hold tensors, or lists of them; torch's own pytrees take several times as long.
    out: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            out.append(value)
        elif isinstance(value, list | tuple):
            out += [item for item in value if isinstance(item, torch.Tensor)]
    return out


def _mapped(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)([_mapped(function, item) for item in value])
    return value


def _dispatched(func: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    tensors = _tensors((*args, *kwargs.values()))
    device = kwargs.get("device")
    if not is_far(device) and not any(isinstance(tensor, Far) for tensor in tensors):
        return func(*args, **kwargs)
    if torch.is_inference_mode_enabled() and _is_composite(func):
        return func.decompose(*args, **kwargs)
    if func is aten._to_copy.default:
        _count_copy(args[0], kwargs)
    elif func is aten.copy_.default:
        _count_copy(
            args[1], {"device": args[0].device, "dtype": args[0].dtype, "non_blocking": args[2:] == (True,)}
        )
    else:
        _check(func, args, kwargs, tensors)
        _count(func, args)
    if device is not None:
        kwargs = {**kwargs, "device": NEAR}
    if func is aten.histc.default:
        # The CPU counts no integers.
        given = args[0].near
        return Far(func(given.float(), *args[1:], **kwargs).to(given.dtype))
    near_kwargs = {name: _mapped(near, value) for name, value in kwargs.items()}
    out = func(*(_mapped(near, value) for value in args), **near_kwargs)
    to_near = device is not None and not is_far(device)
    return out if to_near else _wrapped(func, out, tensors)


@cache
def _is_composite(func: OpOverload) -> bool:
    # Autograd takes such an operation apart, inference mode does not.
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _wrapped(func: OpOverload, out: Any, tensors: Sequence[torch.Tensor]) -> Any:
    # What was written in place is the tensor that was given.
    given = {id(tensor.near): tensor for tensor in tensors if isinstance(tensor, Far)}
    for tensor in given.values():
        if tensor.shape != tensor.near.shape:
            raise NotImplementedError(
                f"{func} changes a tensor's shape in place, which a pretended one cannot"
            )
    return _mapped(lambda value: given[id(value)] if id(value) in given else Far(value), out)


def _check(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: Sequence[torch.Tensor]
) -> None:
    strangers = [tensor for tensor in tensors if not isinstance(tensor, Far)]
    if not strangers or not any(isinstance(tensor, Far) for tensor in tensors):
        return
    packet = func.overloadpacket
    if packet in INDEXING and isinstance(args[0], Far):
        # Indices are moved; so is one number that is put.
        values = [value for value in args[2:3] if isinstance(value, torch.Tensor)]
        if all(isinstance(value, Far) or value.dim() == 0 for value in values):
            return
    elif all(stranger.dim() == 0 for stranger in strangers) and packet not in ONE_DEVICE:
        written = [id(tensor) for tensor in _written(func, args, kwargs)]
        if not any(id(stranger) in written for stranger in strangers):
            return
    shown = ", ".join(f"{tensor.device.type} {list(tensor.shape)}" for tensor in tensors)
    raise Mixed(f"{func} takes tensors of one device, got {shown}, at {owner()}")


def _written(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield args[position] if position < len(args) else kwargs.get(argument.name)


def _count(func: OpOverload, args: Sequence[Any]) -> None:
    packet = func.overloadpacket
    name = str(packet).removeprefix("aten.")
    if (packet in WAITS and isinstance(args[0], Far)) or func is aten.repeat_interleave.Tensor:
        _note(SYNC, reason=name)
    elif packet in INDEXING:
        _count_indices(args)
    if not (func.is_view or packet in NO_KERNEL):
        _note(KERNEL, reason=name)


def _count_indices(args: Sequence[Any]) -> None:
    indices = [index for index in args[1] if index is not None]
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    moved = [index for index in indices if not isinstance(index, Far)]
    if moved:
        _note(SYNC, reason="index from the CPU")
        _note(UP, sum(index.nbytes for index in moved))
    elif masks and not (len(args) > 2 and len(masks) == 1 and args[2].numel() == 1):
        # One number at a mask is a fill.
        _note(SYNC, reason="index by a mask")


def _count_copy(source: torch.Tensor, target: Mapping[str, Any]) -> None:
    # `target` has the device and dtype that the copy has, as far as they are named.
    if not source.numel():
        return
    far, to_far = isinstance(source, Far), is_far(target.get("device", source.device))
    if far != to_far:
        _note(UP if to_far else DOWN, source.nbytes)
        if not target.get("non_blocking"):
            _note(SYNC, reason="copy to the device" if to_far else "copy from the device")
    else:
        _note(KERNEL, reason="copy")
    dtype = target.get("dtype")
    if dtype not in (None, source.dtype) and source.is_floating_point() and dtype.is_floating_point:
        weight = isinstance(source, torch.nn.Parameter) and source.dim() > 1
        _note(WEIGHT_CAST if weight else CAST)


class _Below(TorchDispatchMode):
    """Operations that have no tensor of the device yet, such as a copy to it."""

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _dispatched(func, args, kwargs or {})


# ---------------------------------------------------------------- above autograd: what torch does in C

FACTORIES = {
    getattr(torch, name)
    for name in [
        "tensor",
        "as_tensor",
        "arange",
        "zeros",
        "ones",
        "empty",
        "full",
        "rand",
        "randn",
        "randint",
        "linspace",
        "eye",
        "zeros_like",
        "ones_like",
        "empty_like",
        "full_like",
        "rand_like",
        "randn_like",
    ]
}


class _Above(TorchFunctionMode):
    """Functions that would reach for storage, or build on a device before anything is dispatched."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to:
            return _moved(func, args, kwargs)
        if func in FACTORIES:
            return _made(func, args, kwargs)
        if func is torch.Tensor.pin_memory and not isinstance(args[0], Far):
            return args[0].clone()
        if args and isinstance(args[0], Far):
            if func is torch.nn.functional.scaled_dot_product_attention:
                return _attention(*args, **kwargs)
            if func is torch.nn.functional.linear and torch.is_inference_mode_enabled():
                return _linear(func, *args, **kwargs)
            if func in IN_C:
                return IN_C[func](*args, **kwargs)
        return func(*args, **kwargs)


def _no_numpy(tensor: Far, *args: object, **kwargs: object) -> None:
    raise TypeError(f"can't convert a {tensor.device} tensor to numpy; use .cpu() first: {owner()}")


def _not_pinned(tensor: Far, *args: object, **kwargs: object) -> None:
    raise RuntimeError(f"only dense CPU tensors can be pinned: {owner()}")


def _listed(tensor: Far) -> list[Any]:
    _note(SYNC, reason="tolist")
    _note(DOWN, tensor.near.nbytes)
    return tensor.near.tolist()


IN_C: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.Tensor.numpy: _no_numpy,
    torch.Tensor.__array__: _no_numpy,
    torch.Tensor.pin_memory: _not_pinned,
    torch.Tensor.tolist: _listed,
    torch.Tensor.cpu: lambda tensor, *args, **kwargs: _copied(tensor, {"device": NEAR}),
    # Which tensors share memory is read off these.
    torch.Tensor.data_ptr: lambda tensor: tensor.near.data_ptr(),
    torch.Tensor.untyped_storage: lambda tensor: tensor.near.untyped_storage(),
}


def _moved(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    # torch.Tensor.to, whose arguments are a device, a dtype, both, or another tensor, then two switches.
    tensor, *rest = args
    target = {name: value for name, value in kwargs.items() if value is not None}
    for value in [rest.pop(0) for _ in rest[:2] if not isinstance(rest[0], bool)]:
        if isinstance(value, torch.Tensor):
            target |= {"device": value.device, "dtype": value.dtype}
        elif value is not None:
            target["dtype" if isinstance(value, torch.dtype) else "device"] = value
    target |= dict(zip(("non_blocking", "copy"), rest, strict=False))
    other = target.pop("other", None)
    if other is not None:
        target |= {"device": other.device, "dtype": other.dtype}
    if not isinstance(tensor, Far) and not is_far(target.get("device")):
        return func(*args, **kwargs)
    return _copied(tensor, target)


def _copied(tensor: torch.Tensor, target: Mapping[str, Any]) -> torch.Tensor:
    device = torch.device(target.get("device", tensor.device))
    dtype = target.get("dtype", tensor.dtype)
    if not target.get("copy") and (device.type, dtype) == (tensor.device.type, tensor.dtype):
        return tensor
    device = torch.device(NAME, 0) if is_far(device) else device
    return aten._to_copy(tensor, dtype=dtype, device=device, non_blocking=target.get("non_blocking", False))


def _made(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> torch.Tensor:
    kwargs.pop("pin_memory", None)
    if not is_far(kwargs.get("device")):
        return func(*args, **kwargs)
    name, trained = func.__name__, kwargs.pop("requires_grad", False)
    if name == "as_tensor" and isinstance(args[0], torch.Tensor):
        return _copied(args[0], {name: value for name, value in kwargs.items() if value is not None})
    kwargs["device"] = NEAR
    out = func(*(_mapped(near, value) for value in args), **kwargs)
    if name in ("tensor", "as_tensor"):
        _note(SYNC, int(out.numel() > 0), reason="copy to the device")
        _note(UP, out.nbytes)
    elif not name.startswith("empty"):
        _note(KERNEL, reason=name)
    return Far(out).requires_grad_(trained)


class _Attention(torch.autograd.Function):
    """The CPU's own attention, forward and backward, as one kernel each."""

    @staticmethod
    def forward(ctx: Any, settings: Mapping[str, Any], *inputs: Far) -> Far:
        _note(KERNEL, reason="attention")
        leaves = [given.near.detach().requires_grad_(given.requires_grad) for given in inputs]
        # What the CPU picks depends on whether there is a gradient to come.
        with torch.set_grad_enabled(any(leaf.requires_grad for leaf in leaves)):
            names = ("query", "key", "value", "attn_mask")
            near_out = torch.nn.functional.scaled_dot_product_attention(
                **dict(zip(names, leaves, strict=False)), **settings
            )
        ctx.leaves, ctx.near_out = leaves, near_out
        return Far(near_out.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Far) -> tuple[Far | None, ...]:
        _note(KERNEL, reason="attention backward")
        trained = [leaf for leaf in ctx.leaves if leaf.requires_grad]
        slopes = iter(torch.autograd.grad(ctx.near_out, trained, gradients[0].near))
        return (None, *(Far(next(slopes)) if leaf.requires_grad else None for leaf in ctx.leaves))


def _attention(*args: Any, **kwargs: Any) -> torch.Tensor:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    kwargs = dict(zip(names, args, strict=False)) | kwargs
    inputs = [kwargs.pop(name) for name in ("query", "key", "value")]
    if (mask := kwargs.pop("attn_mask", None)) is not None:
        inputs.append(mask)
    if not all(isinstance(tensor, Far) for tensor in inputs):
        raise Mixed(f"attention over tensors of two devices, at {owner()}")
    if torch.is_autocast_enabled(NAME):
        inputs = [_cast(tensor, torch.get_autocast_dtype(NAME)) for tensor in inputs]
    return _Attention.apply(kwargs, *inputs)


def _linear(
    product: Callable[..., torch.Tensor], given: Far, weight: Far, bias: Far | None = None
) -> torch.Tensor:
    # The CPU's rounding depends on whether the weight is trained, which in inference mode is not seen below.
    inputs = [given, weight] if bias is None else [given, weight, bias]
    if torch.is_autocast_enabled(NAME) or not all(isinstance(tensor, Far) for tensor in inputs):
        return product(*inputs)
    _note(KERNEL, reason="linear")
    weight.near.requires_grad_(weight.requires_grad)
    with _disable_current_modes():
        return Far(product(*(near(tensor) for tensor in inputs)))


# ---------------------------------------------------------------- autocast

_casts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}


def _cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not isinstance(value, Far) or not value.is_floating_point() or value.dtype in (dtype, torch.float64):
        return value
    kept = (
        dtype != torch.float32
        and value.dtype == torch.float32
        and value.requires_grad
        and value.is_leaf
        and torch.is_autocast_cache_enabled()
        # torch from 2.11 on keeps none of inference mode, whose tensors a later backward pass cannot use.
        and not torch.is_inference_mode_enabled()
    )
    if kept and id(value) in _casts:
        return _casts[id(value)][1]
    with torch.enable_grad() if kept else nullcontext():
        out = _copied(value, {"dtype": dtype})
    if kept:
        _casts[id(value)] = (value, out)
    return out


def _autocasting(name: str, rule: str) -> Callable[..., Any]:
    packet, _, overload = name.partition(".")
    op = getattr(getattr(aten, packet), overload or "default")
    below = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    position = next((at for at, argument in enumerate(op._schema.arguments) if argument.name == "dtype"), 0)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        lower = torch.get_autocast_dtype(NAME)
        with torch._C._ExcludeDispatchKeyGuard(below):
            if rule == "result":
                named = kwargs.get("dtype") is not None or len(args) > position
                return op(
                    *args,
                    **(kwargs if named or args[0].dtype != lower else {**kwargs, "dtype": torch.float32}),
                )
            tensors = _tensors((*args, *kwargs.values()))
            widest = torch.float32 if any(tensor.dtype == torch.float32 for tensor in tensors) else lower
            dtype = {"lower": lower, "wider": torch.float32, "widest": widest}[rule]
            cast = partial(_cast, dtype=dtype)
            kwargs = {name: _mapped(cast, value) for name, value in kwargs.items()}
            return op(*(_mapped(cast, value) for value in args), **kwargs)

    return kernel


# ---------------------------------------------------------------- registration


class _Module:
    """What torch asks of a device's module."""

    is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])


def _empty(size: Sequence[int], *, dtype: torch.dtype | None = None, **_: object) -> Far:
    return Far(torch.empty(size, dtype=dtype, device=NEAR))


def _empty_strided(
    size: Sequence[int], stride: Sequence[int], *, dtype: torch.dtype | None = None, **_: object
) -> Far:
    return Far(torch.empty_strided(size, stride, dtype=dtype, device=NEAR))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    _count_copy(source, {"device": target.device, "dtype": target.dtype, "non_blocking": non_blocking})
    near(target).copy_(near(source))
    return target


def _number(tensor: Far) -> Any:
    _note(SYNC, reason="_local_scalar_dense")
    return tensor.near.item()


@cache
def _registered() -> list[torch.library.Library]:
    # For good: a library that is let go takes its registrations along.
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module)
    # Where no mode is on, torch makes tensors in C.
    made = torch.library.Library("aten", "IMPL", "PrivateUse1")
    made.impl("empty.memory_format", _empty)
    made.impl("empty_strided", _empty_strided)
    made.impl("_copy_from", _copy_from)
    # A list of tensors of one number each becomes a tensor.
    made.impl("_local_scalar_dense", _number)
    # torch would take them apart for a device without a kernel.
    made.impl("silu_backward", lambda gradient, given: Far(aten.silu_backward(gradient.near, given.near)))
    rest = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    rest.fallback(torch.library.fallthrough_kernel)
    autocast = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    rules = {"lower": LOWER, "wider": WIDER, "result": WIDER_RESULT, "widest": WIDEST}
    for rule, names in rules.items():
        for name in names:
            autocast.impl(name, _autocasting(name, rule))
    return [made, rest, autocast]


@contextmanager
def pretended() -> Iterator[torch.device]:
    """The device, which can be used inside the block."""
    _registered()
    clear = torch.clear_autocast_cache

    def cleared() -> None:
        clear()
        _casts.clear()

    torch.clear_autocast_cache = cleared
    try:
        # The backward pass in this thread too, since modes are a thread's own.
        with torch.autograd.set_multithreading_enabled(False), _Above(), _Below():
            yield torch.device(NAME, 0)
    finally:
        torch.clear_autocast_cache = clear


class Caller(Protocol):
    """Calls a function of an importable module in another process, and waits for what it returns."""

    def __call__(self, function: Callable[..., T], *args: object) -> T: ...


@contextmanager
def own_process() -> Iterator[Caller]:
    """A process for the device, which ends with the block.

    Forked from one that has imported what a run needs.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=FORKS) as pool:

        def call(function: Callable[..., T], *args: object) -> T:
            return pool.submit(function, *args).result(timeout=280)

        yield call
