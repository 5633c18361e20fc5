"""To and from the reward model of trlX (CarperAI/trlx, examples/summarize_rlhf, `GPTRewardModel`).

Its state dict has `transformer.*`, the trunk of a causal language model, and `v_head.weight`. It reads the value before
the first pad id of a row. The published code makes pad the end marker, so the marker itself is not read: so does the
loss `trlx`. Any other reward is read at its marker, and the folder's tokenizer then has a pad token of its own.

Left out: sharded files; trlX reads one.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from rmlab.data.tokenize import Encoder
from rmlab.export.appearing import appearing
from rmlab.export.check import compare, probes
from rmlab.export.facts import TRLX, Facts
from rmlab.export.folder import backbone_of, evaluating, labelled
from rmlab.export.padding import give_pad
from rmlab.export.quiet import quietly
from rmlab.export.trained import Exportable
from rmlab.export.weights import NotRepresentable, State, fill, fit_embeddings, linear_of, merged_state
from rmlab.losses.trlx import TrlxPairwise
from rmlab.model.readout import Last

WEIGHTS = "pytorch_model.bin"  # the name and the format that trlX's scripts read


def export_trlx(
    module: Exportable, encoder: Encoder, facts: Facts | None, folder: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Writes the state dict, the configuration and the tokenizer of a `GPTRewardModel` to `folder`.

    facts: written as `rmlab.json`, so that rmlab reads the folder where the model was trained to be read. Raises
    `NotRepresentable` for a model that is not one, `RunError` if the folder gives other scores.
    """
    check_trlx(module)
    with appearing(folder) as temporary, evaluating(module), quietly():
        tokenizer, config = _text(module, encoder)
        with torch.device("meta"):
            target = AutoModelForCausalLM.from_config(config)
        trunk = {f"transformer.{name}": tensor for name, tensor in merged_state(backbone_of(module).model).items()}
        fit_embeddings(target, trunk)
        state = trunk | {"v_head.weight": linear_of(module.head).weight.detach()}
        config.architectures, config.dtype = [type(target).__name__], dtype
        torch.save({name: tensor.to(dtype) for name, tensor in state.items()}, temporary / WEIGHTS)
        config.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        pad = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
        compare(
            module, _Published(temporary, config), probes(tokenizer, set(encoder.suffix)), pad_id=pad, sides=["right"]
        )
        if facts is not None:
            facts.filled(module, encoder, TRLX).write(temporary)
        (temporary / "README.md").write_text(_card(tokenizer, type(target).__name__, encoder))


def export_classifier(module: Exportable, encoder: Encoder, folder: Path, *, dtype: torch.dtype) -> None:
    """Writes a reward model of trlX as `AutoModelForSequenceClassification`, whose pad id is the end marker.

    That class reads the last token that is not the pad id, which is where `GPTRewardModel` reads.
    Raises `NotRepresentable` and `RunError` as above.
    """
    with appearing(folder) as temporary, evaluating(module), quietly():
        tokenizer, config = _text(module, encoder)
        target, state = fill(
            AutoModelForSequenceClassification, labelled(config, 1), backbone_of(module).model, None, module.head
        )
        target.config.dtype = dtype
        target.save_pretrained(temporary, state_dict={name: tensor.to(dtype) for name, tensor in state.items()})
        tokenizer.save_pretrained(temporary)
        loaded = AutoModelForSequenceClassification.from_pretrained(temporary, dtype=torch.float32).eval()
        pad = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
        compare(module, loaded, probes(tokenizer, set(encoder.suffix)), pad_id=pad, sides=["right", "left"])


@final
class _Published(nn.Module):
    """The value of every token, as `GPTRewardModel.forward` computes it before it looks for the pad id."""

    def __init__(self, folder: Path, config: PretrainedConfig) -> None:
        super().__init__()
        state: State = torch.load(folder / WEIGHTS, weights_only=True)
        self.device = torch.device("cpu")
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
        self.transformer = model.transformer
        trunk = {name.removeprefix("transformer."): t for name, t in state.items() if name.startswith("transformer.")}
        self.transformer.load_state_dict(trunk)
        self.v_head = nn.Linear(state["v_head.weight"].shape[1], 1, bias=False)
        self.v_head.load_state_dict({"weight": state["v_head.weight"]})
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Returns `logits` [B, L, 1]."""
        hidden_BLD = self.transformer(input_ids, attention_mask=attention_mask)[0]
        return SimpleNamespace(logits=self.v_head(hidden_BLD))


def check_trlx(module: Exportable) -> None:
    """Raises `NotRepresentable` unless the model is a decoder under `transformer` with one value per completion."""
    model: Any = module.backbone.model
    config, loss = model.config, module.loss
    with torch.device("meta"):
        known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        whole = AutoModelForCausalLM.from_config(config) if known else None
    if not isinstance(getattr(whole, "transformer", None), type(model)):
        raise NotRepresentable(
            "the trlX layout is for decoders whose trunk transformers calls `transformer` (gpt2, gptj, gpt_neo, "
            f"codegen, bloom, falcon), this one is {config.model_type}"
        )
    scalar = isinstance(loss, TrlxPairwise) or (loss.reads, loss.out_dim) == ("ends", 1)
    if not (scalar and isinstance(module.readout, Last)):
        raise NotRepresentable(
            f"trlX has one value per completion, this model's score is made of several by the rule {loss.rule}"
        )
    bias = linear_of(module.head).bias
    if bias is not None and bool(bias.ne(0).any()):
        raise NotRepresentable("its head has a bias and trlX's v_head has none; train with head.bias=false")


def _text(module: Exportable, encoder: Encoder) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """Returns the tokenizer and the configuration with the pad token that makes trlX read where the loss does."""
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.chat_template = encoder.template
    config = copy.deepcopy(backbone_of(module).model.config)
    if not isinstance(module.loss, TrlxPairwise):
        give_pad(tokenizer, config, set(encoder.suffix))
        return tokenizer, config
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.convert_ids_to_tokens(encoder.suffix[-1]), "right"
    config.pad_token_id = config.get_text_config().pad_token_id = encoder.suffix[-1]
    return tokenizer, config


def _card(tokenizer: PreTrainedTokenizerBase, architecture: str, encoder: Encoder) -> str:
    marker = "".join(encoder.tokenizer.convert_ids_to_tokens(encoder.suffix))
    return f"""# Reward model for trlX

`{WEIGHTS}` is the state dict of a `GPTRewardModel` (trlX, examples/summarize_rlhf) over {architecture}:

```python
model = GPTRewardModel("PATH_OF_THIS_FOLDER")
model.load_state_dict(torch.load("PATH_OF_THIS_FOLDER/{WEIGHTS}"))
```

End every text with `{marker}`, once, and pad with `{tokenizer.pad_token}`: `GPTRewardModel` reads the value before the
first pad id, so its `PAD_ID` has to be {tokenizer.pad_token_id}, the pad id of this folder's tokenizer. rmlab reads
the folder as it is: `rmlab score --model PATH_OF_THIS_FOLDER --input rows.jsonl`.
"""
