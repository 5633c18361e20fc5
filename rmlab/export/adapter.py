"""The low-rank adapters of a run and its head, as an adapter folder of peft on the model it was trained from.

It is loaded by `PeftModel` over `AutoModelForSequenceClassification` of the base. An adapter folder cannot change the
base's configuration, so the base's own pad id decides what is read: where that is missing or ends every completion, the
adapter alone would be read wrongly and is refused.

Left out: encoders, whose pooler is part of the class, and scores made of several tokens.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rmlab.data.tokenize import Encoder
from rmlab.errors import UsageError
from rmlab.export.appearing import appearing
from rmlab.export.check import compare, probes
from rmlab.export.folder import backbone_of, evaluating, labelled
from rmlab.export.quiet import quietly
from rmlab.export.trained import Exportable
from rmlab.export.weights import NotRepresentable, State, fill
from rmlab.model.readout import Last

WEIGHTS = "adapter_model.safetensors"  # peft's names
PREFIX = "base_model.model."
MATRICES = ("lora_A", "lora_B", "lora_magnitude_vector")


def export_adapter(
    module: Exportable, encoder: Encoder, folder: Path, *, base: str, lora: LoraConfig, dtype: torch.dtype
) -> None:
    """Writes the adapters, the head and the tokenizer to `folder`.

    base: the folder or hub name the run began with. lora: the configuration the adapters were made with. Raises
    `NotRepresentable` for a model that is not one linear layer on a decoder, `UsageError` for a base whose pad id would
    be read wrongly, `RunError` if the folder on its base gives other scores, as it does if more was trained.
    """
    if module.loss.reads != "ends" or module.loss.out_dim != 1 or not isinstance(module.readout, Last):
        raise NotRepresentable("an adapter is for a decoder with one number at the end of a completion")
    model = backbone_of(module).model
    _check_pad(model, base, set(encoder.suffix))
    with appearing(folder) as temporary, evaluating(module), quietly():
        target, state = fill(AutoModelForSequenceClassification, labelled(model.config, 1), model, None, module.head)
        heads = {name: tensor for name, tensor in state.items() if not name.startswith(f"{target.base_model_prefix}.")}
        adapters, names = _adapters(model, target.base_model_prefix)
        config = copy.deepcopy(lora)
        config.target_modules, config.base_model_name_or_path = names, base
        config.modules_to_save = sorted({name.rpartition(".")[0] for name in heads})
        config.task_type, config.inference_mode = "SEQ_CLS", True
        config.save_pretrained(str(temporary))
        named = {f"{PREFIX}{name}": tensor.to(dtype).contiguous() for name, tensor in (adapters | heads).items()}
        save_file(named, temporary / WEIGHTS, metadata={"format": "pt"})
        tokenizer = copy.deepcopy(encoder.tokenizer)
        tokenizer.chat_template = encoder.template
        tokenizer.save_pretrained(temporary)
        loaded = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
        adapted: Any = PeftModel.from_pretrained(loaded, str(temporary)).eval()
        compare(
            module,
            adapted.base_model.model,
            probes(tokenizer, set(encoder.suffix)),
            pad_id=int(model.config.get_text_config().pad_token_id),
            sides=["right"],
        )


def _adapters(model: PreTrainedModel, prefix: str) -> tuple[State, list[str]]:
    """Returns the adapters' tensors under peft's names, and the layers that have some."""
    state: State = {}
    layers: dict[str, Any] = {name: m for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    for name, layer in layers.items():
        own = {key: tensor for key, tensor in layer.state_dict().items() if key.startswith(MATRICES)}
        state |= {f"{prefix}.{name}.{key.replace('.default', '')}": tensor.detach() for key, tensor in own.items()}
    if not layers:
        raise NotRepresentable("it was trained without adapters (lora=null)")
    return state, sorted(layers)


def _check_pad(model: PreTrainedModel, base: str, ends: set[int]) -> None:
    pad = model.config.get_text_config().pad_token_id
    if pad is None or pad in ends:
        found = "no pad_token_id" if pad is None else f"the end marker as pad_token_id ({pad})"
        raise UsageError(
            f"{base} has {found}, and an adapter folder cannot change it, so transformers would not read the end of a "
            "completion; leave --adapter out to have the adapters merged into a folder that says its own"
        )
