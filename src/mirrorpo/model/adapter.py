"""Low-rank adapters on a network: fresh ones, one that goes on, one that is merged; and what they adapt."""

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils.hub import cached_file

from mirrorpo.core.network import Adapted, CausalLM, plain_name
from mirrorpo.core.seeds import init_draws
from mirrorpo.model.language_model import ADAPTER, LanguageModel, recomputes
from mirrorpo.model.lora import Lora

# The adapter as it was when the run began, where an adapter goes on: the reference.
START = "start"
FILE = "adapter_config.json"
# No targets: what chooses among experts, and what Mamba's scans read past an adapter.
LEFT_ALONE = ("gate", "router", "classifier", "shared_expert_gate", "dt_proj")
# Their fused kernels read this one past it too; peft refuses it there.
NOT_IN_MAMBA = "out_proj"
MAMBA = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")


def base_of(path: str, revision: str | None) -> tuple[str, str | None] | None:
    """Path and revision of the model that the adapter in a folder or repository belongs to.

    None where there is no adapter.

    Raises:
        ValueError: if the adapter is no LoRA, or trains more than low-rank updates.
    """
    try:
        file = cached_file(
            path,
            FILE,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        # No such folder; loading it says so.
        return None
    if file is None:
        return None
    from peft import LoraConfig, PeftConfig

    config = PeftConfig.from_pretrained(path, revision=revision)
    if not isinstance(config, LoraConfig) or config.modules_to_save or config.bias != "none":
        raise ValueError(
            f"model.path={path}: its {FILE} is of a {config.peft_type} adapter that trains more than "
            "low-rank updates; merge it into its base with peft, and give that folder"
        )
    if not config.base_model_name_or_path:
        raise ValueError(f"model.path={path}: its {FILE} names no base_model_name_or_path; write it there")
    return config.base_model_name_or_path, config.revision


def with_adapter(model: LanguageModel, lora: Lora, seed: int) -> LanguageModel:
    """The model with a fresh adapter, which starts as the identity; only the adapter trains.

    Raises:
        ValueError: if a target is the head or the embeddings, or matches nothing.
    """
    from peft import LoraConfig

    causal_lm = model.causal_lm
    if lora.targets is None:
        modules, parameters = all_projections(causal_lm)
    else:
        modules, parameters = list(lora.targets), None
        _refuse_outer(causal_lm, lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules,
        target_parameters=parameters,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = _adapted(model, config, seed)
    except ValueError as error:
        raise _impossible(causal_lm, lora, error) from error
    if lora.targets is not None:
        # peft moves those of fused experts from `target_modules` to `target_parameters`.
        remaining = set(config.target_modules or ())
        names = list(_adapters(adapted.causal_lm))
        unmatched = [
            target
            for target in lora.targets
            if target in remaining and not any(f".{name}".endswith(f".{target}") for name in names)
        ]
        if unmatched:
            raise _unmatched(causal_lm, lora, unmatched)
    return _with_extent(adapted)


def with_saved_adapter(model: LanguageModel, path: str, revision: str | None, seed: int) -> LanguageModel:
    """The model with the adapter that a folder holds, which goes on training.

    Raises:
        ValueError: if the adapter's weights are not those of its config on this model.
    """
    from peft import LoraConfig, PeftConfig

    config = cast(LoraConfig, PeftConfig.from_pretrained(path, revision=revision))
    config.inference_mode, base = False, config.base_model_name_or_path
    adapted = _adapted(model, config, seed)
    # peft writes down where the base lies on this machine.
    name_base(adapted, base)
    network = adapted.network
    assert isinstance(network, Adapted)
    for name in (ADAPTER, START):
        # The second call adds the adapter, frozen; the first finds it there.
        with init_draws(seed):
            result = network.load_adapter(
                path, name, is_trainable=name == ADAPTER, torch_device=str(model.device), revision=revision
            )
        foreign = sorted([*result.missing_keys, *result.unexpected_keys])
        if foreign:
            raise ValueError(
                f"model.path={path}: the adapter's weights do not fit its config on this base ({foreign[:3]})"
            )
    network.set_adapter(ADAPTER)
    return replace(_with_extent(adapted), start_adapter=START)


def with_start_adapter(model: LanguageModel, seed: int, name: str = START) -> LanguageModel:
    """The model with a second, frozen adapter that is the trained one as it is now, and can be moved."""
    network = model.network
    assert isinstance(network, Adapted)
    if model.start_adapter == name:
        return model
    with init_draws(seed):
        network.add_adapter(name, copy.deepcopy(network.peft_config[ADAPTER]))
    network.set_adapter(ADAPTER)
    model = replace(model, start_adapter=name)
    with torch.no_grad():
        parameters = dict(network.named_parameters())
        for of_policy, moving in moving_weights(model.without_adapter(), model).items():
            moving.requires_grad_(False)
            moving.data = parameters[of_policy].detach().clone()
    return model


def moving_weights(reference: LanguageModel, policy: LanguageModel) -> dict[str, Tensor]:
    """The reference's parameters that correspond to the policy's trained ones, by the policy's names."""
    names = [name for name, parameter in policy.network.named_parameters() if parameter.requires_grad]
    of_reference = dict(reference.network.named_parameters())
    if not reference.adapter_off:
        return {name: of_reference[name] for name in names}
    adapter = f".{reference.start_adapter}"
    return {name: of_reference[name.replace(f".{ADAPTER}", adapter)] for name in names}


def merged_adapter(network: PreTrainedModel, path: str, revision: str | None) -> PreTrainedModel:
    """The network with the adapter that a folder holds added to its weights."""
    from peft import PeftModel

    with warnings.catch_warnings():
        # peft only warns where weights are missing.
        warnings.simplefilter("error", UserWarning)
        try:
            adapted = PeftModel.from_pretrained(network, path, revision=revision)
        except UserWarning as warning:
            reason = str(warning).splitlines()[0]
            raise ValueError(f"model.path={path}: the adapter does not fit its base ({reason})") from warning
    merged = cast(PreTrainedModel, cast(Any, adapted).merge_and_unload())
    # peft has frozen what it was put on.
    return merged.requires_grad_(True)


def _adapted(model: LanguageModel, config: Any, seed: int) -> LanguageModel:
    from peft import get_peft_model

    # The adapter's draw comes from its own stream, so that full and LoRA arms share all the others.
    with init_draws(seed), warnings.catch_warnings():
        # peft 0.21 reads transformers' old name of the property.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        # GPT-2's layers hold their weights the other way round, which peft sees by itself.
        warnings.filterwarnings(
            "ignore", message=".*base_model_name_or_path. was renamed", category=UserWarning
        )
        # The doubled rank of experts in one tensor, which is no module.
        warnings.filterwarnings("ignore", message=".*_pattern keys did not match", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        network = get_peft_model(model.network, config)
    base = cast(PreTrainedModel, network.get_base_model())
    if recomputes(base):
        base.enable_input_require_grads()
    for _, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return replace(model, network=network)


def name_base(model: LanguageModel, base: str | None) -> None:
    """Write down which model the trained adapter belongs to, for whoever loads it."""
    assert isinstance(model.network, Adapted)
    model.network.peft_config[ADAPTER].base_model_name_or_path = base


def projections(causal_lm: CausalLM) -> dict[str, Tensor]:
    """The weight matrices that an adapter could adapt, by plain name; not the head, nor routers."""
    head = causal_lm.get_output_embeddings()
    out: dict[str, Tensor] = {}
    decoder = causal_lm.get_decoder()
    prefix = next(name for name, module in _modules(causal_lm) if module is decoder)
    for name, module in decoder.named_modules(prefix=prefix):
        leaf = plain_name(name).rpartition(".")[2]
        if ".lora_" in name or module is head or leaf in LEFT_ALONE:
            continue
        if isinstance(module, torch.nn.Linear | Conv1D):
            out[plain_name(name)] = module.weight
        for key, parameter in module.named_parameters(recurse=False):
            # The experts of a layer in one tensor.
            if parameter.ndim == 3 and key.endswith("_proj"):
                out[plain_name(f"{name}.{key}")] = parameter
    return out


def all_projections(causal_lm: CausalLM) -> tuple[list[str], list[str]]:
    """The default targets of an architecture: names of modules, and of parameters that hold fused experts."""
    mamba = causal_lm.config.get_text_config().model_type in MAMBA
    names = [
        name for name in projections(causal_lm) if not (mamba and name.rpartition(".")[2] == NOT_IN_MAMBA)
    ]
    modules = {name for name, _ in _modules(causal_lm)}
    return [name for name in names if name in modules], [name for name in names if name not in modules]


def adaptation(network: torch.nn.Module) -> Mapping[str, Any] | None:
    """How much of a network an adapter adapts, for the manifest; None where there is none.

    Returns:
        Projections that are adapted and that there are, the adapted share of their weights, and the names of
        those left out.
    """
    if not isinstance(network, Adapted):
        return None
    causal_lm = cast("CausalLM", network.get_base_model())
    everything, adapted = projections(causal_lm), set(_adapters(causal_lm))
    weights = sum(weight.numel() for weight in everything.values())
    share = sum(weight.numel() for name, weight in everything.items() if name in adapted) / max(weights, 1)
    return {
        "adapted": len(adapted),
        "projections": len(everything),
        "share": round(share, 4),
        "left_out": _leaves(name for name in everything if name not in adapted),
    }


def _with_extent(model: LanguageModel) -> LanguageModel:
    extent = adaptation(model.network)
    if extent is None or not extent["left_out"]:
        return model
    note = (
        f"model.lora adapts {extent['adapted']} of {extent['projections']} projections, "
        f"{100 * extent['share']:.0f}% of their weights; not {', '.join(extent['left_out'])}"
    )
    return replace(model, notes=(*model.notes, note))


def _modules(causal_lm: CausalLM) -> Iterator[tuple[str, torch.nn.Module]]:
    return cast("torch.nn.Module", causal_lm).named_modules()


def _adapters(causal_lm: CausalLM) -> Iterator[str]:
    # Plain names of the modules and parameters that have an adapter.
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    for name, module in _modules(causal_lm):
        if isinstance(module, ParamWrapper):
            yield f"{plain_name(name)}.{module.parameter_name}"
        elif isinstance(module, LoraLayer):
            yield plain_name(name)


def _leaves(names: Iterable[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})


def _refuse_outer(causal_lm: CausalLM, targets: Sequence[str]) -> None:
    outer = (causal_lm.get_output_embeddings(), causal_lm.get_input_embeddings())
    modules = _modules(causal_lm)
    names = {name.rpartition(".")[2] for name, module in modules if any(module is part for part in outer)}
    if names & set(targets):
        raise ValueError(
            f"model.lora.targets={list(targets)}: adapting the head or the embeddings would change the "
            f"reference too; leave them out"
        )


def _unmatched(causal_lm: CausalLM, lora: Lora, unmatched: Sequence[str]) -> ValueError:
    names = ", ".join(_leaves(projections(causal_lm)))
    return ValueError(
        f"model.lora.targets={list(lora.targets or ())}: {', '.join(unmatched)} match nothing in "
        f"{type(causal_lm).__name__}, whose projections are {names}; set model.lora.targets=null for all of "
        "them, or name some"
    )


def _impossible(causal_lm: CausalLM, lora: Lora, error: ValueError) -> ValueError:
    from peft import NoMatchingPeftModuleError

    if isinstance(error, NoMatchingPeftModuleError):
        return _unmatched(causal_lm, lora, lora.targets or ())
    reason = str(error).splitlines()[0]
    if "lora_dropout" in reason:
        return ValueError(
            f"model.lora.dropout={lora.dropout}: adapters of fused experts take no dropout; set "
            "model.lora.dropout=0"
        )
    return ValueError(f"model.lora: {type(causal_lm).__name__} takes no such adapter ({reason})")
